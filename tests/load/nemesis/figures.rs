//! What the histories of browsers and workers say of a run.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Result;
use single_state_tests::history::{End, Event, What, now};
use single_state_tests::visitors::Stay;

use crate::nemesis::kind::Kind;
use crate::nemesis::schedule::Fault;
use crate::nemesis::stage::Stage;

/// After the last fault everything is acknowledged within so long.
const SETTLED_WITHIN: u64 = 10_000_000;
/// A socket that was closed is noticed by its browser within so long after the fault that did it.
const NOTICED_WITHIN: u64 = 2_000_000;

/// One fault that was done and taken back, in microseconds of the histories' clock.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) kind: Kind,
    /// It may close sockets of browsers.
    pub(crate) closes: bool,
    pub(crate) began: u64,
    /// It was taken back, and all gateways reach all workers.
    pub(crate) healed: u64,
    pub(crate) told: Option<String>,
}

/// What was done, and when.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) began: u64,
    pub(crate) faults_from: u64,
    pub(crate) faults_to: u64,
    pub(crate) done: Vec<Done>,
    pub(crate) reasons: Vec<String>,
}

/// Who was closed by what.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    /// By gateways and connections that were done something to.
    pub(crate) allowed: usize,
    /// By nothing that may.
    pub(crate) others: Vec<String>,
}

/// What was lost and doubled.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Items {
    pub(crate) sent: usize,
    pub(crate) acknowledged: usize,
    /// Acknowledged, and not in the last list of its session.
    pub(crate) lost: usize,
    /// More often than once in that list.
    pub(crate) doubled: usize,
}

impl Done {
    /// For who watches.
    pub(crate) fn line(&self, fault: &Fault, began: u64) -> String {
        let at = (self.began - began) as f64 / 1e6;
        let took = (self.healed - self.began) as f64 / 1e6;
        let told = self.told.as_ref().map(|told| format!(", {told}")).unwrap_or_default();
        let Fault { gateway, worker, size, .. } = fault;
        format!(
            "{at:7.1} s  {:<24} {took:5.1} s  gateway {gateway}, worker {worker} of {size}{told}",
            self.kind.name()
        )
    }
}

impl Run {
    pub(crate) fn begin() -> Self {
        let (done, reasons) = Default::default();
        let began = now();
        Self { began, faults_from: began, faults_to: began, done, reasons }
    }

    /// Browsers append a while longer, then look for everything, which they find when all that they
    /// have sent is acknowledged.
    pub(crate) async fn leave(&self, stage: &mut Stage) -> Result<Vec<Stay>> {
        stage.visitors.wait_for_beats(2).await?;
        stage.visitors.leave().await
    }

    /// How many inputs were acknowledged each second while it was calm, and while there were faults.
    pub(crate) fn acks_per_second(&self, events: &[Event]) -> [f64; 2] {
        let mut acked: HashMap<&str, u64> = HashMap::new();
        let spans = [(self.began, self.faults_from), (self.faults_from, self.faults_to)];
        let mut counts = [0; 2];
        for event in events {
            let (channel, n) = match &event.what {
                What::Ack { channel, n } => (channel, *n),
                What::Welcome { channel, applied: Some(n), .. } => (channel, *n),
                _ => continue,
            };
            let known = acked.entry(channel).or_default();
            let more = n.saturating_sub(*known);
            *known += more;
            for (count, (from, to)) in counts.iter_mut().zip(spans) {
                if (from..to).contains(&event.t) {
                    *count += more;
                }
            }
        }
        let rate =
            |i: usize| counts[i] as f64 * 1e6 / spans[i].1.saturating_sub(spans[i].0).max(1) as f64;
        [rate(0), rate(1)]
    }

    /// How long after the last fault it took until all that was sent before it ended was
    /// acknowledged or, as a plain page has it, answered; `None` if it was not in time.
    pub(crate) fn settled(&self, events: &[Event], stays: &[Stay]) -> Option<u64> {
        let to = self.faults_to;
        let mut open: HashMap<&str, u64> = HashMap::new();
        let mut last = to;
        for event in events {
            match &event.what {
                What::Welcome { channel, .. } => drop(open.entry(channel).or_default()),
                What::Send { channel, n, .. } if event.t < to => {
                    // Only clients that were welcomed hear of acknowledgements.
                    open.entry(channel).and_modify(|due| *due = *n);
                }
                _ => {}
            }
            let (channel, n) = match &event.what {
                What::Ack { channel, n } => (channel, n),
                What::Welcome { channel, applied: Some(n), .. } => (channel, n),
                _ => continue,
            };
            if open.get(channel.as_str()).is_some_and(|due| *due > 0 && due <= n) {
                open.insert(channel, 0);
                last = last.max(event.t);
            }
        }
        let beats = stays.iter().flat_map(|stay| &stay.beats).filter(|beat| beat.sent < to);
        let last = beats.map(|beat| beat.answered).fold(last, u64::max);
        let is_settled = open.values().all(|due| *due == 0) && last - to <= SETTLED_WITHIN;
        is_settled.then_some(last - to)
    }

    /// From the end of each fault until everything that was under way was answered, by kind.
    pub(crate) fn recoveries(&self, stays: &[Stay]) -> BTreeMap<Kind, Vec<u64>> {
        let mut all: BTreeMap<Kind, Vec<u64>> = BTreeMap::new();
        for done in &self.done {
            let beats = stays.iter().flat_map(|stay| &stay.beats);
            let open = beats.filter(|beat| beat.sent < done.healed && beat.answered > done.healed);
            let longest = open.map(|beat| beat.answered - done.healed).max().unwrap_or(0);
            all.entry(done.kind).or_default().push(longest);
        }
        all.values_mut().for_each(|times| times.sort_unstable());
        all
    }

    /// The longest that anybody waited for an answer while there was a fault, by kind.
    pub(crate) fn pauses(&self, stays: &[Stay]) -> BTreeMap<Kind, u64> {
        let mut all: BTreeMap<Kind, u64> = BTreeMap::new();
        for done in &self.done {
            let beats = stays.iter().flat_map(|stay| &stay.beats);
            let met = beats.filter(|beat| beat.sent < done.healed && beat.answered > done.began);
            let longest = met.map(|beat| beat.answered - beat.sent).max().unwrap_or(0);
            let known = all.entry(done.kind).or_default();
            *known = longest.max(*known);
        }
        all
    }

    /// Sockets that others than their browsers have closed.
    pub(crate) fn closed(&self, events: &[Event]) -> Closed {
        let mut closed = Closed::default();
        for event in events {
            let What::Closed { channel, code, end } = &event.what else { continue };
            if *end == End::Client {
                continue;
            }
            let did_it = |done: &&Done| {
                done.closes && (done.began..done.healed + NOTICED_WITHIN).contains(&event.t)
            };
            if [1006, 1012].contains(code) && self.done.iter().any(|done| did_it(&done)) {
                closed.allowed += 1;
            } else {
                let at = event.t.saturating_sub(self.began) as f64 / 1e6;
                closed.others.push(format!("{channel} was closed with {code} at {at:.1} s"));
            }
        }
        closed
    }
}

impl Items {
    /// Judges the last list of each session.
    pub(crate) fn of(events: &[Event]) -> Self {
        let mut acked: HashMap<&str, u64> = HashMap::new();
        let mut sent: HashMap<&str, Vec<(&str, u64, &str)>> = HashMap::new();
        let mut found: HashMap<&str, &[String]> = HashMap::new();
        for event in events {
            match &event.what {
                What::Send { channel, n, item: Some(item) } => {
                    sent.entry(&event.session).or_default().push((channel, *n, item));
                }
                What::Ack { channel, n } | What::Welcome { channel, applied: Some(n), .. } => {
                    let known = acked.entry(channel).or_default();
                    *known = (*known).max(*n);
                }
                What::Found { items, .. } => drop(found.insert(&event.session, items)),
                _ => {}
            }
        }
        let mut items = Self::default();
        for (session, sent) in sent {
            // Who has not looked, since the run has ended too early, has found nothing lost.
            let Some(list) = found.get(session) else { continue };
            let once: HashSet<&str> = list.iter().map(String::as_str).collect();
            let is_acked = |channel: &str, n| acked.get(channel).is_some_and(|last| n <= *last);
            items.sent += sent.len();
            items.doubled += list.len() - once.len();
            for (channel, n, item) in sent {
                let is_acked = is_acked(channel, n);
                items.acknowledged += usize::from(is_acked);
                items.lost += usize::from(is_acked && !once.contains(item));
            }
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use single_state_tests::visitors::Beat;

    use super::*;

    fn event(t: u64, text: &str) -> Event {
        serde_json::from_str(&format!(r#"{{"t":{t},"by":"b","session":"s",{text}}}"#)).unwrap()
    }

    fn run(closes: bool) -> Run {
        let kind = if closes { Kind::GatewayKill } else { Kind::WorkerKill };
        let done = Done { kind, closes, began: 100, healed: 200, told: None };
        let (faults_from, faults_to) = (100, 1_000_100);
        Run { began: 0, faults_from, faults_to, done: vec![done], reasons: Vec::new() }
    }

    fn stay(beats: &[(u64, u64)]) -> Stay {
        let beats = beats.iter().map(|(sent, answered)| Beat { sent: *sent, answered: *answered });
        let session = "s".to_owned();
        Stay { session, is_numbered: true, beats: beats.collect(), closed: None, returns: 0 }
    }

    fn welcome(t: u64) -> Event {
        event(
            t,
            r#""what":"welcome","channel":"c","attach":1,"epoch":1,"resumed":true,"applied":0,"durability":"relaxed""#,
        )
    }

    fn send(t: u64, n: u64) -> Event {
        event(t, &format!(r#""what":"send","channel":"c","n":{n},"item":"i{n}""#))
    }

    fn ack(t: u64, n: u64) -> Event {
        event(t, &format!(r#""what":"ack","channel":"c","n":{n}"#))
    }

    #[test]
    fn an_acknowledged_item_that_the_last_list_lacks_is_lost_and_one_that_is_only_sent_is_not() {
        let found = event(9, r#""what":"found","channel":"c","after":4,"items":["i1","i1"]"#);
        let events = [welcome(0), send(1, 1), send(2, 2), send(3, 3), ack(4, 2), found];
        let items = Items { sent: 3, acknowledged: 2, lost: 1, doubled: 1 };
        assert_eq!(Items::of(&events), items);
    }

    #[test]
    fn a_socket_that_is_closed_while_a_gateway_is_away_is_allowed_and_no_other() {
        let closed = |t, code: u16| {
            let text = format!(r#""what":"closed","channel":"c","code":{code},"end":"network""#);
            event(t, &text)
        };
        let events = [closed(150, 1006), closed(160, 1013), closed(3_000_000, 1006)];
        let by_gateway = run(true).closed(&events);
        assert_eq!((by_gateway.allowed, by_gateway.others.len()), (1, 2));
        assert_eq!(run(false).closed(&events).others.len(), 3);
    }

    #[test]
    fn what_is_acknowledged_too_late_after_the_last_fault_is_not_settled() {
        let settled = |t| run(false).settled(&[welcome(1), send(2, 1), ack(t, 1)], &[]);
        assert_eq!(settled(1_500_100), Some(500_000));
        assert_eq!(settled(12_000_100), None);
        assert_eq!(run(false).settled(&[welcome(1), send(2, 1)], &[]), None);
        let late = [stay(&[(5, 12_000_100)])];
        assert_eq!(run(false).settled(&[], &late), None);
    }

    #[test]
    fn acknowledgements_are_counted_by_what_they_acknowledge() {
        let events = [welcome(1), ack(50, 3), ack(60, 3), ack(500_000, 7)];
        let [calm, faults] = run(false).acks_per_second(&events);
        assert_eq!((calm, faults), (30_000.0, 4.0));
    }

    #[test]
    fn a_recovery_is_the_longest_wait_after_a_fault_of_what_was_sent_before_its_end() {
        let stays = [stay(&[(10, 120), (150, 230)]), stay(&[(190, 250), (260, 900)])];
        let recoveries = run(false).recoveries(&stays);
        assert_eq!(recoveries[&Kind::WorkerKill], [50]);
        assert_eq!(run(false).pauses(&stays)[&Kind::WorkerKill], 110);
    }
}
