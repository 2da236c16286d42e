//! What a history says of visitors while something was done to their servers: who was moved and how
//! long they waited, and what is lost, doubled and closed.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Beat, Stay};
use crate::history::{End, Event, What, now};

/// While something was done, in microseconds of the history's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// From when …
    pub from: u64,
    /// … to when.
    pub to: u64,
}

/// Figures of one span.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Sessions that visitors have used.
    pub sessions: usize,
    /// How often each session that was moved was claimed.
    pub moves: BTreeMap<String, usize>,
    /// When they were claimed, in order.
    pub claimed: Vec<u64>,
    /// Of each claim of a session that its owner had not given up, the workers called down in it.
    pub stolen: Vec<Vec<u16>>,
    /// The longest wait for an answer of each session that was moved, the shortest first; of all
    /// sessions if none was.
    pub pauses: Vec<u64>,
    /// All waits for answers before the span, the shortest first.
    pub calm: Vec<u64>,
    /// Items that are missing.
    pub lost: usize,
    /// Items that are there more than once.
    pub doubled: usize,
    /// Sockets that were closed, and not by their browsers.
    pub closed: usize,
    /// Clients that came again, in each second since the first of them.
    pub returned: Vec<usize>,
}

impl Span {
    /// Begins now; it is to be ended.
    pub fn begin() -> Self {
        Self { from: now(), to: u64::MAX }
    }

    /// Ends now.
    pub fn end(&mut self) {
        self.to = now();
    }

    fn has(&self, t: u64) -> bool {
        (self.from..self.to).contains(&t)
    }

    /// Somebody waited in it.
    fn meets(&self, beat: &Beat) -> bool {
        beat.sent < self.to && beat.answered > self.from
    }
}

impl Verdict {
    /// Judges the histories of visitors and workers.
    pub fn of(events: &[Event], stays: &[Stay], span: Span) -> Self {
        let mut verdict = Self::default();
        let mut sessions: HashMap<&str, Vec<&Stay>> = HashMap::new();
        for stay in stays {
            sessions.entry(&stay.session).or_default().push(stay);
            let before = stay.beats.iter().filter(|beat| beat.answered <= span.from);
            verdict.calm.extend(before.map(Beat::wait));
        }
        verdict.sessions = sessions.len();
        for event in events.iter().filter(|event| span.has(event.t)) {
            let What::Claim { reason, down, .. } = &event.what else { continue };
            if sessions.contains_key(&*event.session) {
                *verdict.moves.entry(event.session.clone()).or_default() += 1;
                verdict.claimed.push(event.t);
                verdict.stolen.extend((reason == "steal").then(|| down.clone()));
            }
        }
        let moves = &verdict.moves;
        sessions.retain(|session, _| moves.is_empty() || moves.contains_key(*session));
        let wait = |stays: Vec<&Stay>| {
            let beats = stays.into_iter().flat_map(|stay| &stay.beats);
            beats.filter(|beat| span.meets(beat)).map(Beat::wait).max()
        };
        verdict.pauses = sessions.into_values().filter_map(wait).collect();
        verdict.pauses.sort_unstable();
        verdict.calm.sort_unstable();
        verdict.count_items(events);
        verdict.count_connections(events);
        verdict
    }

    /// Each session's last list has everything that was sent to it.
    fn count_items(&mut self, events: &[Event]) {
        let mut sent: HashMap<&str, Vec<&str>> = HashMap::new();
        let mut found: HashMap<&str, &[String]> = HashMap::new();
        for event in events {
            match &event.what {
                What::Send { item: Some(item), .. } => {
                    sent.entry(&event.session).or_default().push(item);
                }
                What::Found { items, .. } => drop(found.insert(&event.session, items)),
                _ => {}
            }
        }
        for (session, list) in found {
            let once: HashSet<&str> = list.iter().map(String::as_str).collect();
            let sent = sent.get(session).into_iter().flatten();
            self.lost += sent.filter(|item| !once.contains(**item)).count();
            self.doubled += list.len() - once.len();
        }
    }

    fn count_connections(&mut self, events: &[Event]) {
        // A welcome of an attach that is known is the next owner's.
        let mut known: HashMap<&str, u64> = HashMap::new();
        let mut first = None;
        for event in events {
            match &event.what {
                What::Closed { end, .. } => self.closed += usize::from(*end != End::Client),
                What::Welcome { channel, attach, .. } => {
                    let last = known.insert(channel, *attach);
                    if last.is_some_and(|last| last < *attach) {
                        let since = event.t - *first.get_or_insert(event.t);
                        let second = (since / 1_000_000) as usize;
                        self.returned.resize(self.returned.len().max(second + 1), 0);
                        self.returned[second] += 1;
                    }
                }
                _ => {}
            }
        }
    }

    /// Sessions that were moved.
    pub fn moved(&self) -> usize {
        self.moves.len()
    }

    /// How often the session was moved that was moved most.
    pub fn most_moves(&self) -> usize {
        self.moves.values().copied().max().unwrap_or(0)
    }
}

impl Beat {
    fn wait(&self) -> u64 {
        self.answered - self.sent
    }
}

/// Of values in order, the one that so many of a thousand do not exceed; `None` of none.
pub fn of_thousand(values: &[u64], share: usize) -> Option<u64> {
    let at = (values.len() * share).div_ceil(1000).max(1);
    values.get(at - 1).copied()
}

#[cfg(test)]
mod tests {
    use single_state_proto::browser::DurabilityName;

    use super::*;

    fn event(t: u64, session: &str, what: What) -> Event {
        Event { t, by: "somebody".to_owned(), session: session.to_owned(), what }
    }

    fn claim(t: u64, session: &str) -> Event {
        let (down, passed_over, reason) = (Vec::new(), Vec::new(), "steal".to_owned());
        let what = What::Claim { epoch: t, asked: t, version: 0, reason, down, passed_over };
        event(t, session, what)
    }

    fn stay(session: &str, beats: &[(u64, u64)]) -> Stay {
        let beats = beats.iter().map(|(sent, answered)| Beat { sent: *sent, answered: *answered });
        Stay {
            session: session.to_owned(),
            is_numbered: true,
            beats: beats.collect(),
            closed: None,
            returns: 0,
        }
    }

    #[test]
    fn a_pause_is_the_longest_wait_within_the_span_of_a_session_that_was_moved() {
        let events = [claim(10, "a"), claim(110, "a"), claim(120, "a"), claim(10, "b")];
        let stays = [
            stay("a", &[(0, 50), (90, 112), (130, 135), (200, 290)]),
            stay("a", &[(95, 125)]),
            stay("b", &[(90, 190)]),
        ];
        let verdict = Verdict::of(&events, &stays, Span { from: 100, to: 200 });
        assert_eq!((verdict.sessions, verdict.moved(), verdict.most_moves()), (2, 1, 2));
        assert_eq!((verdict.pauses, verdict.calm), (vec![30], vec![50]));
        assert!(verdict.stolen.iter().all(Vec::is_empty));
    }

    #[test]
    fn when_no_session_is_moved_the_waits_of_all_are_told() {
        let stays = [stay("a", &[(90, 112)]), stay("b", &[(90, 190)])];
        let verdict = Verdict::of(&[], &stays, Span { from: 100, to: 200 });
        assert_eq!((verdict.moved(), verdict.pauses), (0, vec![22, 100]));
    }

    #[test]
    fn what_a_sessions_last_list_lacks_is_lost_and_what_it_repeats_is_doubled() {
        let channel = || "c".to_owned();
        let send = |n: u64, item: &str| {
            event(n, "a", What::Send { channel: channel(), n, item: Some(item.to_owned()) })
        };
        let found = |t, items: &[&str]| {
            let items = items.iter().map(|item| (*item).to_owned()).collect();
            event(t, "a", What::Found { channel: channel(), after: t, items })
        };
        let events = [send(1, "x"), found(2, &[]), send(3, "y"), found(4, &["y", "y", "y"])];
        let verdict = Verdict::of(&events, &[], Span { from: 0, to: 9 });
        assert_eq!((verdict.lost, verdict.doubled), (1, 2));
    }

    #[test]
    fn clients_that_come_again_are_counted_by_second_and_closes_by_others_are_counted() {
        let welcome = |t, attach| {
            let (channel, applied, durability) = ("c".to_owned(), None, DurabilityName::Relaxed);
            let (epoch, resumed) = (t, true);
            let what = What::Welcome { channel, attach, epoch, resumed, applied, durability };
            event(t, "a", what)
        };
        let closed = |end| event(5, "a", What::Closed { channel: "c".to_owned(), code: 1, end });
        let times = [(0, 1), (5, 1), (1_000, 2), (2_500_000, 2), (2_500_001, 3)];
        let mut events = times.map(|(t, attach)| welcome(t, attach)).to_vec();
        events.extend([End::Server, End::Network, End::Client].map(closed));
        let verdict = Verdict::of(&events, &[], Span { from: 0, to: 9 });
        assert_eq!((verdict.returned, verdict.closed), (vec![1, 0, 1], 2));
    }

    #[test]
    fn of_few_values_the_last_is_the_one_that_most_do_not_exceed() {
        assert_eq!(of_thousand(&[], 990), None);
        assert_eq!(of_thousand(&[7], 500), Some(7));
        let values: Vec<u64> = (1..=1000).collect();
        assert_eq!((of_thousand(&values, 500), of_thousand(&values, 990)), (Some(500), Some(990)));
    }
}
