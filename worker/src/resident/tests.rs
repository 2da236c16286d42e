//! The rules of a session's channels, with tabs that merely write down what they are told.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use single_state_proto::channel::Input;
use single_state_proto::frame::{CloseCode, Durability, Open, Opened, Refused, ResetCode, Skipped};
use single_state_proto::id::{
    Attach, ConnectionId, Epoch, Generation, InputNumber, Revision, WorkerIndex,
};
use single_state_proto::limits::{MAILBOX, MAX_CHANNELS, WINDOW};
use single_state_store::Row;
use tokio::time::Instant;

use super::{Attachment, Leave, Policy, Resident, Snapshot, Tab, Waiting, Work};
use crate::clock::Clock;
use crate::metrics::Arrival;
use crate::output::Leaves;
use crate::snapshot;
use crate::timers::Timers;

#[derive(Default)]
struct Notes {
    opened: RefCell<Option<Opened>>,
    attachment: RefCell<Option<Attachment>>,
    refused: RefCell<Option<Refused>>,
    sent: RefCell<Vec<(u64, String)>>,
    acked: Cell<u64>,
    consumed: Cell<usize>,
    closed: Cell<Option<CloseCode>>,
    reset: Cell<Option<ResetCode>>,
    full: Cell<bool>,
}

impl Tab for Notes {
    fn opened(&self, opened: Opened, attachment: Attachment) {
        *self.opened.borrow_mut() = Some(opened);
        *self.attachment.borrow_mut() = Some(attachment);
    }

    fn is_wanted(&self) -> bool {
        true
    }

    fn refused(&self, refused: Refused) {
        *self.refused.borrow_mut() = Some(refused);
    }

    fn send(&self, revision: Revision, _: bool, body: &Bytes) -> bool {
        if !self.full.get() {
            let text = String::from_utf8_lossy(body).into_owned();
            self.sent.borrow_mut().push((revision.0, text));
        }
        !self.full.get()
    }

    fn acked(&self, number: InputNumber) {
        self.acked.set(number.0);
    }

    fn consumed(&self, length: usize) {
        self.consumed.set(self.consumed.get() + length);
    }

    fn closed(&self, code: CloseCode) {
        self.closed.set(Some(code));
    }

    fn moved(&self) {}

    fn reset(&self, code: ResetCode) {
        self.reset.set(Some(code));
    }
}

impl Notes {
    fn attachment(&self) -> Attachment {
        self.attachment.borrow().clone().expect("attached")
    }

    fn receive(&self, number: u64) {
        let (number, body) = (InputNumber(number), Bytes::from_static(b"four"));
        self.attachment().receive(Input { number, binary: false, body }, Arrival::default());
    }

    fn sent(&self) -> Vec<u64> {
        self.sent.borrow_mut().drain(..).map(|(revision, _)| revision).collect()
    }
}

const EPOCH: Epoch = Epoch(7);

fn resident() -> Rc<Resident> {
    resident_in(Durability::Memory)
}

fn resident_in(durability: Durability) -> Rc<Resident> {
    let policy = Policy { durability, interval: Duration::from_secs(1) };
    Resident::new("a".parse().unwrap(), EPOCH, policy, None)
}

fn open(channel: &str, attach: u64, connection: u64) -> Open {
    Open {
        session: "a".parse().unwrap(),
        channel: format!("channel-{channel}").parse().unwrap(),
        attach: Attach(attach),
        connection: ConnectionId(connection),
        generation: Generation(1),
        skipped: Skipped::default(),
        seen: None,
        min_epoch: Epoch(0),
        fresh: false,
        recovered: false,
        window: WINDOW,
        identity: None,
    }
}

fn attach(resident: &Rc<Resident>, open: &Open) -> Rc<Notes> {
    let tab = Rc::new(Notes::default());
    resident.attach(open, tab.clone());
    tab
}

/// Takes work until there is none; the numbers of the inputs.
fn work(resident: &Resident) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Poll::Ready(work) = resident.poll_work(&mut Context::from_waker(Waker::noop())) {
        if let Work::Input(Waiting { channel, input, .. }) = work {
            resident.applied(channel, input.number, input.body.len());
            resident.handled(Instant::now());
            numbers.push(input.number.0);
        }
    }
    resident.pump_all();
    numbers
}

fn event(resident: &Resident, body: &'static str) {
    resident.touch();
    resident.begin_call();
    let body = Bytes::from_static(body.as_bytes());
    resident.with_log(|log| log.event(false, body, Leaves::WithItsCause));
    resident.end_call();
    resident.pump_all();
}

#[test]
fn a_new_channel_begins_with_1_and_one_that_was_elsewhere_where_it_is() {
    let resident = resident();
    let new = attach(&resident, &open("new", 1, 1));
    assert_eq!(new.opened.borrow().as_ref().unwrap().applied, Some(InputNumber(0)));
    let elsewhere = attach(&resident, &Open { recovered: true, ..open("elsewhere", 1, 2) });
    assert_eq!(elsewhere.opened.borrow().as_ref().unwrap().applied, None);
    let returned = attach(&resident, &open("returned", 2, 3));
    assert_eq!(returned.opened.borrow().as_ref().unwrap().applied, None);
    elsewhere.receive(41);
    assert_eq!(work(&resident), [41]);
    assert_eq!(elsewhere.acked.get(), 41);
}

#[test]
fn the_newest_connection_has_the_channel_and_older_ones_are_told() {
    let resident = resident();
    let first = attach(&resident, &open("a", 1, 10));
    let second = attach(&resident, &open("a", 2, 20));
    assert_eq!(first.closed.get(), Some(CloseCode::Superseded));
    for older in [open("a", 1, 10), open("a", 2, 21)] {
        let refused = attach(&resident, &older);
        assert_eq!(*refused.refused.borrow(), Some(Refused::Superseded));
    }
    assert_eq!(second.closed.get(), None);
    assert_eq!(resident.tabs(), 1);
}

#[test]
fn the_same_connection_over_another_stream_goes_on_with_its_numbers() {
    let resident = resident();
    let before = attach(&resident, &open("a", 1, 10));
    before.receive(1);
    before.receive(2);
    assert_eq!(work(&resident), [1, 2]);
    let after = attach(&resident, &Open { recovered: true, ..open("a", 1, 10) });
    assert_eq!(after.opened.borrow().as_ref().unwrap().applied, Some(InputNumber(2)));
    before.receive(3);
    assert_eq!(work(&resident), [0; 0], "what the replaced stream still brings has no effect");
    after.receive(3);
    assert_eq!(work(&resident), [3]);
}

#[test]
fn an_input_that_comes_again_is_not_applied_but_acknowledged_again() {
    let resident = resident();
    let tab = attach(&resident, &open("a", 1, 1));
    tab.receive(1);
    work(&resident);
    tab.acked.set(0);
    tab.receive(1);
    assert_eq!(work(&resident), [0; 0]);
    assert_eq!((tab.acked.get(), tab.consumed.get()), (1, 8), "its credit comes back too");
}

#[test]
fn a_gap_closes_that_channel_only() {
    let resident = resident();
    let (tab, other) = (attach(&resident, &open("a", 1, 1)), attach(&resident, &open("b", 1, 2)));
    tab.receive(2);
    assert_eq!(tab.closed.get(), Some(CloseCode::Protocol));
    assert_eq!(other.closed.get(), None);
    assert_eq!(resident.tabs(), 1);
}

#[test]
fn what_the_mailbox_cannot_take_waits_in_order_and_keeps_its_credit() {
    let resident = resident();
    let tab = attach(&resident, &open("a", 1, 1));
    let all = MAILBOX as u64 * 3;
    (1..=all).for_each(|n| tab.receive(n));
    assert_eq!(tab.consumed.get(), 0, "credit comes back when the session takes an input");
    assert_eq!(work(&resident), (1..=all).collect::<Vec<_>>());
    assert_eq!(tab.consumed.get(), all as usize * 4);
}

#[test]
fn channels_that_wait_for_the_mailbox_take_turns() {
    let resident = resident();
    let (one, other) = (attach(&resident, &open("a", 1, 1)), attach(&resident, &open("b", 1, 2)));
    (1..=MAILBOX as u64 + 50).for_each(|n| one.receive(n));
    (1..=50).for_each(|n| other.receive(n));
    let order = work(&resident);
    let others_first = order.iter().skip(1).position(|n| *n == 1).unwrap();
    assert!(others_first < MAILBOX + 5, "after {others_first} inputs of the other tab");
}

#[test]
fn inputs_of_a_closed_tab_are_still_handled() {
    let resident = resident();
    let (tab, _other) = (attach(&resident, &open("a", 1, 1)), attach(&resident, &open("b", 1, 2)));
    let all = MAILBOX as u64 + 10;
    (1..=all).for_each(|n| tab.receive(n));
    tab.attachment().end();
    assert_eq!(work(&resident).len(), all as usize);
}

#[tokio::test(start_paused = true)]
async fn the_65th_attached_channel_is_refused_and_a_detached_one_makes_room() {
    let resident = resident();
    let tabs: Vec<_> = (0..MAX_CHANNELS as u64)
        .map(|i| attach(&resident, &open(&format!("number-{i}"), 1, i)))
        .collect();
    let refused = attach(&resident, &open("one-more", 1, 99));
    assert_eq!(*refused.refused.borrow(), Some(Refused::TooManyChannels));
    tabs[3].receive(1);
    tabs[3].attachment().detach();
    let early = attach(&resident, &open("one-more", 1, 99));
    let retry = Refused::Retry { after_ms: 1000, owner: None };
    assert_eq!(*early.refused.borrow(), Some(retry), "the one that is away may be about to return");
    tokio::time::advance(Duration::from_secs(11)).await;
    let accepted = attach(&resident, &open("one-more", 1, 99));
    assert!(accepted.opened.borrow().is_some());
    assert_eq!(resident.tabs(), MAX_CHANNELS);
}

#[tokio::test(start_paused = true)]
async fn once_a_channel_was_dropped_a_returning_one_cannot_be_judged_and_must_start_over() {
    let resident = resident();
    for i in 0..=MAX_CHANNELS as u64 {
        let tab = attach(&resident, &open(&format!("number-{i}"), 1, i));
        tab.receive(1);
        tab.attachment().detach();
        tokio::time::advance(Duration::from_secs(11)).await;
    }
    work(&resident);
    let returning = attach(&resident, &Open { recovered: true, ..open("number-0", 1, 0) });
    assert_eq!(returning.closed.get(), Some(CloseCode::ChannelExpired));
    let new = attach(&resident, &open("new", 1, 99));
    assert!(new.opened.borrow().is_some());
}

#[test]
fn a_channel_that_comes_back_gets_what_it_has_not_seen_and_nothing_twice() {
    let resident = resident();
    let tab = attach(&resident, &open("a", 1, 1));
    event(&resident, "one");
    assert_eq!(tab.sent(), [1]);
    tab.attachment().taken(Revision(1));
    tab.attachment().detach();
    event(&resident, "two");
    event(&resident, "three");
    let seen = Some((EPOCH, Revision(1)));
    let back = attach(&resident, &Open { seen, recovered: true, ..open("a", 1, 1) });
    assert!(back.opened.borrow().as_ref().unwrap().resumed);
    assert_eq!(back.sent(), [2, 3]);
}

#[test]
fn what_was_seen_in_another_epoch_or_the_future_is_not_resumed() {
    let resident = resident();
    event(&resident, "one");
    for seen in [(Epoch(6), Revision(1)), (EPOCH, Revision(9))] {
        let name = format!("epoch-{}", seen.0);
        let tab = attach(&resident, &Open { seen: Some(seen), ..open(&name, 1, 1) });
        assert!(!tab.opened.borrow().as_ref().unwrap().resumed, "{seen:?}");
    }
}

#[test]
fn a_full_tab_is_sent_more_when_it_says_so() {
    let resident = resident();
    let tab = attach(&resident, &open("a", 1, 1));
    tab.full.set(true);
    event(&resident, "one");
    assert_eq!(tab.sent(), [0; 0]);
    tab.full.set(false);
    tab.attachment().writable();
    assert_eq!(tab.sent(), [1]);
}

#[test]
fn a_tab_that_takes_no_events_is_reset_and_the_others_lose_none() {
    let resident = resident();
    let (slow, quick) = (attach(&resident, &open("a", 1, 1)), attach(&resident, &open("b", 1, 2)));
    slow.full.set(true);
    for n in 1..=2000 {
        event(&resident, "x");
        quick.attachment().taken(Revision(n));
    }
    assert_eq!(slow.reset.get(), Some(ResetCode::Overflow));
    assert_eq!((quick.reset.get(), quick.sent().len()), (None, 2000));
}

// --- across owners ------------------------------------------------------------------------------

/// The session as the next owner has it after a save.
fn next_owner(resident: &Resident, epoch: u64, released: bool) -> Rc<Resident> {
    let snapshot =
        resident.snapshot(&(), &Timers::default(), Clock::System, WorkerIndex(0)).unwrap();
    resident.saved();
    restored(&snapshot, epoch, released)
}

fn restored(snapshot: &Snapshot, epoch: u64, released: bool) -> Rc<Resident> {
    let row = Row {
        epoch: Epoch(epoch),
        version: snapshot.save.version,
        app_version: 1,
        codec: snapshot.save.codec,
        strikes: 0,
        unreleased: !released,
        state: None,
    };
    let (kept, _) = snapshot::decode(row.codec, &snapshot.save.state).unwrap();
    let policy = Policy { durability: Durability::Relaxed, interval: Duration::from_secs(1) };
    Resident::restore("a".parse().unwrap(), &row, &kept, policy, Clock::System).0
}

fn resumes(resident: &Rc<Resident>, epoch: u64, revision: u64) -> bool {
    let seen = Some((Epoch(epoch), Revision(revision)));
    let name = format!("seen-{epoch}-{revision}");
    let tab = attach(resident, &Open { seen, ..open(&name, 1, revision + 1000 * epoch) });
    tab.opened.borrow().as_ref().unwrap().resumed
}

#[test]
fn what_was_seen_of_an_earlier_owner_is_resumed_up_to_where_the_next_one_began() {
    let first = resident_in(Durability::Relaxed);
    // A channel for which events are kept.
    let tab = attach(&first, &open("keeps", 1, 1));
    event(&first, "one");
    event(&first, "two");
    let second = next_owner(&first, 20, false);
    event(&first, "three, which is never saved");
    event(&second, "three of the second owner");
    let third = next_owner(&second, 30, false);
    drop(tab);
    assert!(resumes(&third, EPOCH.0, 1) && resumes(&third, EPOCH.0, 2));
    assert!(!resumes(&third, EPOCH.0, 3), "the next owner has never had it");
    assert!(resumes(&third, 20, 3));
    assert!(resumes(&third, 25, 3), "an owner in between that saved nothing has added nothing");
    assert!(!resumes(&third, 25, 4));
    assert!(!resumes(&third, 1, 1), "an owner that nobody remembers");
    assert!(!resumes(&third, 31, 1), "an owner that is yet to come");
}

#[test]
fn the_next_owner_knows_what_was_applied_and_sends_what_was_not_taken() {
    let first = resident_in(Durability::Relaxed);
    let tab = attach(&first, &open("a", 1, 7));
    tab.receive(1);
    tab.receive(2);
    assert_eq!(work(&first), [1, 2]);
    assert_eq!(tab.acked.get(), 0, "nothing is acknowledged before it is saved");
    event(&first, "one");
    event(&first, "two");
    tab.attachment().taken(Revision(1));
    let second = next_owner(&first, 20, false);
    assert_eq!(tab.acked.get(), 2);
    let tab = attach(&second, &Open { recovered: true, ..open("a", 1, 7) });
    assert_eq!(tab.opened.borrow().as_ref().unwrap().applied, Some(InputNumber(2)));
    assert_eq!(tab.sent(), [2]);
    tab.receive(2);
    tab.receive(3);
    assert_eq!(work(&second), [3]);
}

#[test]
fn a_connection_that_was_superseded_stays_so_at_the_next_owner() {
    let first = resident_in(Durability::Relaxed);
    let _older = attach(&first, &open("a", 1, 10));
    let _newer = attach(&first, &open("a", 2, 20));
    let second = next_owner(&first, 20, false);
    let older = attach(&second, &Open { recovered: true, ..open("a", 1, 10) });
    assert_eq!(*older.refused.borrow(), Some(Refused::Superseded));
    let newer = attach(&second, &Open { recovered: true, ..open("a", 2, 20) });
    assert!(newer.opened.borrow().is_some());
}

#[tokio::test(start_paused = true)]
async fn for_60_s_after_the_owner_died_no_channel_makes_room_for_another() {
    for released in [false, true] {
        let first = resident_in(Durability::Relaxed);
        for i in 0..MAX_CHANNELS as u64 {
            attach(&first, &open(&format!("number-{i}"), 1, i));
        }
        let second = next_owner(&first, 20, released);
        tokio::time::advance(Duration::from_secs(11)).await;
        let early = attach(&second, &open("one-more", 1, 99));
        assert_eq!(early.opened.borrow().is_some(), released, "all of them are about to return");
        tokio::time::advance(Duration::from_secs(50)).await;
        let later = attach(&second, &open("one-more", 1, 99));
        assert!(later.opened.borrow().is_some());
    }
}

#[test]
fn outputs_wait_for_their_commit_where_that_is_wanted_and_progress_does_not() {
    let resident = resident_in(Durability::Durable);
    let tab = attach(&resident, &open("a", 1, 1));
    event(&resident, "one");
    assert_eq!(tab.sent(), [0; 0]);
    let progress = Bytes::from_static(b"progress=1}");
    resident.with_log(|log| log.assign("progress", progress, 9, Leaves::Unconfirmed));
    resident.pump_all();
    assert_eq!(tab.sent(), [1]);
    resident.handled(Instant::now());
    let _ = resident.snapshot(&(), &Timers::default(), Clock::System, WorkerIndex(0)).unwrap();
    event(&resident, "two, after the snapshot");
    assert_eq!(tab.sent(), [0; 0]);
    resident.saved();
    assert_eq!(tab.sent(), [2], "what the snapshot contains, and not what came after it");
}

#[test]
fn a_session_that_retires_takes_no_more_input_and_none_is_lost() {
    let resident = resident_in(Durability::Relaxed);
    let tab = attach(&resident, &open("a", 1, 1));
    tab.receive(1);
    work(&resident);
    assert!(resident.retire(Leave::Idle).is_some(), "its commit is due at once");
    tab.receive(2);
    assert_eq!(work(&resident), [0; 0]);
    let retry = Refused::Retry { after_ms: 50, owner: None };
    let late = attach(&resident, &open("late", 1, 2));
    assert_eq!(*late.refused.borrow(), Some(retry));
    resident.stay();
    assert_eq!(work(&resident), [2], "a handoff that was given up goes on where it was");
}
