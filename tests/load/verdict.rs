//! What is lost and doubled, as the checker finds it in the histories of this run's clients alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use single_state_tests::checker::{Options, check};
use single_state_tests::history::{Event, read};

/// What was found. The checker stops at the first thing that is wrong with a session, so each
/// session counts once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Items that browsers have sent.
    pub(crate) items: usize,
    /// Sessions in which some are missing or out of order.
    pub(crate) lost: u64,
    /// Sessions in which some are twice.
    pub(crate) doubled: u64,
    /// Sessions in which something else is wrong.
    pub(crate) others: u64,
    /// In sentences.
    pub(crate) reasons: Vec<String>,
    /// What became of each invariant, by its name.
    pub(crate) invariants: BTreeMap<String, Tested>,
}

/// How often an invariant was put to the test in sessions that are as they must be, and in how many it
/// does not hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tested {
    pub(crate) tests: u64,
    pub(crate) violations: u64,
}

/// Judges a run.
pub(crate) fn judge(histories: &[PathBuf]) -> Result<Verdict> {
    let mut sessions: BTreeMap<String, Vec<Event>> = BTreeMap::new();
    for event in read(histories)? {
        sessions.entry(event.session.clone()).or_default().push(event);
    }
    let mut verdict = Verdict::default();
    for events in sessions.values() {
        match check(events, &Options::default()) {
            Ok(checked) => {
                verdict.items += checked.items.0;
                for (number, tests) in checked.tests {
                    verdict.invariants.entry(format!("I{number}")).or_default().tests += tests;
                }
            }
            Err(violation) => {
                match violation.invariant {
                    1 | 3 => verdict.lost += 1,
                    2 => verdict.doubled += 1,
                    _ => verdict.others += 1,
                }
                let name = format!("I{}", violation.invariant);
                verdict.invariants.entry(name).or_default().violations += 1;
                let (invariant, session) = (violation.invariant, &violation.session);
                let text = &violation.text;
                verdict.reasons.push(format!("I{invariant} in session {session}: {text}"));
            }
        }
    }
    Ok(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict when browsers have sent a and b to two sessions, and find this in each.
    fn verdict(found: [&str; 2]) -> Verdict {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let mut text = String::new();
        for (session, found) in ["x", "y"].iter().zip(found) {
            let what = [
                format!(r#""send","channel":"{session}","n":1,"item":"a""#),
                format!(r#""send","channel":"{session}","n":2,"item":"b""#),
                format!(r#""send","channel":"{session}","n":3"#),
                format!(r#""found","channel":"{session}","after":3,"items":{found}"#),
            ];
            for (t, what) in what.iter().enumerate() {
                text += &format!(
                    "{{\"t\":{t},\"by\":\"p\",\"session\":\"{session}\",\"what\":{what}}}\n"
                );
            }
        }
        std::fs::write(&path, text).unwrap();
        judge(&[path]).unwrap()
    }

    #[test]
    fn a_session_that_has_all_once_is_clean() {
        let all = r#"["a","b"]"#;
        let found = verdict([all, all]);
        assert_eq!((found.items, found.lost, found.doubled, found.others), (4, 0, 0, 0));
        for invariant in ["I2", "I3", "I4"] {
            let Tested { tests, violations } = found.invariants[invariant];
            assert!(tests > 0 && violations == 0, "{invariant}: {found:?}");
        }
    }

    #[test]
    fn what_is_missing_is_lost_and_what_is_there_twice_doubled() {
        let found = verdict([r#"["a"]"#, r#"["a","b","b"]"#]);
        assert_eq!((found.lost, found.doubled, found.others), (1, 1, 0), "{:?}", found.reasons);
        let violations = |name: &str| found.invariants[name].violations;
        assert_eq!((violations("I2"), violations("I3")), (1, 1), "{found:?}");
    }
}
