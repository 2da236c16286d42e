//! What must hold whenever messages are sent, carried and consumed: the order of these is random, and
//! proptest shrinks what fails to the smallest that does.

mod pair;
mod random;

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;
use single_state_proto::credit::message_cost;
use single_state_proto::frame::CloseCode;
use single_state_proto::id::StreamId;
use single_state_proto::limits::WINDOW;
use single_state_proto::link::{Event, Side};

use crate::pair::{Pair, other};
use crate::random::{body, cases, pieces, side};

const STREAMS: usize = 3;

/// What happens next. Streams are named by their place.
#[derive(Debug, Clone)]
enum Step {
    Send { from: Side, stream: usize, length: usize },
    Consume { at: Side, stream: usize, count: usize },
    Write { from: Side },
    Read { at: Side },
    Close { from: Side, stream: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0..STREAMS;
    let length = prop_oneof![6 => 0..2000_usize, 3 => 0..70_000_usize, 1 => 0..400_000_usize];
    prop_oneof![
        20 => (side(), stream.clone(), length)
            .prop_map(|(from, stream, length)| Step::Send { from, stream, length }),
        10 => (side(), stream.clone(), 1..20_usize)
            .prop_map(|(at, stream, count)| Step::Consume { at, stream, count }),
        10 => side().prop_map(|from| Step::Write { from }),
        10 => side().prop_map(|at| Step::Read { at }),
        1 => (side(), stream).prop_map(|(from, stream)| Step::Close { from, stream }),
    ]
}

/// One direction of one stream, as the two who use it see it.
#[derive(Debug, Default)]
struct Flow {
    /// Messages that the sender still keeps, because the link turned the first one away.
    kept: VecDeque<usize>,
    turned_away: bool,
    /// Lengths of all messages, by number - 1.
    lengths: Vec<usize>,
    sent: u64,
    arrived: u64,
    /// Lengths of those that arrived and are not consumed.
    waiting: VecDeque<usize>,
    consumed: u64,
}

/// Two links, and what the owners of both do with them.
struct Schedule {
    pair: Pair,
    streams: Vec<StreamId>,
    /// By sender, then stream.
    flows: [Vec<Flow>; 2],
    closed: [bool; STREAMS],
}

impl Schedule {
    fn new(cuts: [Vec<usize>; 2]) -> Self {
        let mut pair = Pair::connected();
        let streams = pair.attach_all(STREAMS);
        let [gateway, worker] = cuts;
        pair.gateway.pipe.cut = gateway;
        pair.worker.pipe.cut = worker;
        let flows = [(); 2].map(|()| (0..STREAMS).map(|_| Flow::default()).collect());
        Self { pair, streams, flows, closed: [false; STREAMS] }
    }

    fn flow(&mut self, from: Side, stream: usize) -> &mut Flow {
        &mut self.flows[from as usize][stream]
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Send { from, stream, length } => {
                let flow = self.flow(from, stream);
                flow.lengths.push(length);
                flow.kept.push_back(length);
                self.send_kept(from, stream);
            }
            Step::Consume { at, stream, count } => self.consume(at, stream, count),
            Step::Write { from } => {
                self.pair.transmit(from);
            }
            Step::Read { at } => {
                self.pair.deliver(at);
            }
            Step::Close { from, stream } => {
                self.closed[stream] = true;
                let id = self.streams[stream];
                self.pair.end(from).link.close(id, CloseCode::Ended);
            }
        }
        for side in [Side::Gateway, Side::Worker] {
            self.react(side);
        }
        self.check_what_waits();
    }

    fn send_kept(&mut self, from: Side, stream: usize) {
        let id = self.streams[stream];
        let flow = &mut self.flows[from as usize][stream];
        while !flow.turned_away
            && let Some(length) = flow.kept.front()
        {
            let number = flow.sent + 1;
            if self.pair.end(from).send(id, number, body(number, *length)) {
                flow.sent = number;
                flow.kept.pop_front();
            } else {
                flow.turned_away = true;
            }
        }
    }

    fn consume(&mut self, at: Side, stream: usize, count: usize) {
        let id = self.streams[stream];
        let flow = &mut self.flows[other(at) as usize][stream];
        for length in flow.waiting.drain(..count.min(flow.waiting.len())) {
            flow.consumed += message_cost(length);
            self.pair.end(at).link.consumed(id, length);
        }
    }

    fn react(&mut self, at: Side) {
        assert_eq!(self.pair.end(at).error, None);
        for event in self.pair.end(at).events() {
            let place = |id| self.streams.iter().position(|i| *i == id).expect("one of ours");
            match event {
                Event::Message(id, message) => {
                    let stream = place(id);
                    let flow = self.flow(other(at), stream);
                    flow.arrived += 1;
                    assert_eq!(message.number, flow.arrived, "in order and none missing");
                    let length = flow.lengths[flow.arrived as usize - 1];
                    assert!(message.body == body(message.number, length), "whole and unchanged");
                    flow.waiting.push_back(length);
                }
                Event::Writable(id) => {
                    let stream = place(id);
                    let flow = self.flow(at, stream);
                    assert!(flow.turned_away, "nobody asked");
                    flow.turned_away = false;
                    self.send_kept(at, stream);
                }
                Event::Closed(..) => {}
                event => panic!("{event:?}"),
            }
        }
    }

    /// No receiver holds more than its window and the one message that is being put together.
    fn check_what_waits(&mut self) {
        for from in [Side::Gateway, Side::Worker] {
            for stream in 0..STREAMS {
                let received = self.pair.end(other(from)).received.get(&self.streams[stream]);
                let received = received.copied().unwrap_or(0);
                let flow = self.flow(from, stream);
                let longest = flow.lengths.iter().max().copied().unwrap_or(0);
                let waits = received.saturating_sub(flow.consumed);
                assert!(waits <= u64::from(WINDOW) + longest as u64, "{waits} bytes wait");
            }
        }
    }

    /// Reads, writes and consumes until nothing happens any more.
    fn settle(&mut self) {
        loop {
            self.pair.run();
            let mut consumed = false;
            for side in [Side::Gateway, Side::Worker] {
                self.react(side);
                for stream in 0..STREAMS {
                    consumed |= !self.flow(other(side), stream).waiting.is_empty();
                    self.consume(side, stream, usize::MAX);
                }
            }
            self.check_what_waits();
            let (gateway, worker) = (&self.pair.gateway.link, &self.pair.worker.link);
            if !consumed && !gateway.wants_transmit() && !worker.wants_transmit() {
                return;
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn messages_arrive_whole_and_in_order_whatever_happens_when(
        steps in vec(step(), 1..150),
        gateway_cuts in pieces(),
        worker_cuts in pieces(),
    ) {
        let mut schedule = Schedule::new([gateway_cuts, worker_cuts]);
        for step in steps {
            schedule.apply(step);
        }
        schedule.settle();
        for flow in schedule.flows.iter().flat_map(|flows| flows.iter().zip(&schedule.closed)) {
            let (flow, closed) = flow;
            prop_assert!(*closed || flow.arrived == flow.lengths.len() as u64, "{flow:?}");
        }
    }
}
