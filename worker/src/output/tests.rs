//! What each tab is sent, and what is kept for it.

use super::*;

fn assign(log: &mut OutputLog, key: &str, value: &str) {
    let body = Bytes::from(format!("{key}={value}}}"));
    log.assign(key, body, key.len() + 1, Leaves::WithItsCause);
}

fn event(log: &mut OutputLog, name: &str) {
    log.event(false, Bytes::from(name.to_owned()), Leaves::WithItsCause);
}

fn read(log: &OutputLog, cursor: &mut Cursor) -> Vec<String> {
    let mut bodies = Vec::new();
    while let Some((revision, entry)) = log.next(*cursor, log.revision()) {
        cursor.sent = revision;
        bodies.push(String::from_utf8(entry.body.to_vec()).unwrap());
    }
    bodies
}

#[test]
fn a_slow_tab_gets_the_newest_value_of_each_key_in_order_of_change() {
    let mut log = OutputLog::default();
    let mut slow = Cursor::default();
    for i in 0..10_000 {
        assign(&mut log, "a", &i.to_string());
    }
    assign(&mut log, "b", "1");
    assign(&mut log, "a", "last");
    assert_eq!(log.entries.len(), 2, "a key costs one entry however often it changes");
    assert_eq!(read(&log, &mut slow), ["b=1}", "a=last}"]);
    assert_eq!(read(&log, &mut slow), [""; 0]);
    assign(&mut log, "b", "2");
    assert_eq!(read(&log, &mut slow), ["b=2}"]);
}

#[test]
fn a_new_tab_gets_all_values_and_no_older_event() {
    let mut log = OutputLog::default();
    assign(&mut log, "a", "1");
    event(&mut log, "before");
    let mut cursor = Cursor { events_after: log.revision(), ..Cursor::default() };
    event(&mut log, "after");
    assert_eq!(read(&log, &mut cursor), ["a=1}", "after"]);
}

#[test]
fn the_value_of_a_key_can_be_read_back() {
    let mut log = OutputLog::default();
    assign(&mut log, "a", "[1,2]");
    assert_eq!(log.value("a").unwrap(), "[1,2]");
    assert_eq!(log.value("b"), None);
    assert_eq!(log.values(), (1, 8));
    assign(&mut log, "a", "[]");
    assert_eq!(log.values(), (1, 5));
}

#[test]
fn events_are_kept_until_they_are_taken() {
    let mut log = OutputLog::default();
    event(&mut log, "one");
    assign(&mut log, "a", "1");
    event(&mut log, "two");
    log.trim(Revision(2));
    assert_eq!(read(&log, &mut Cursor::default()), ["a=1}", "two"]);
    assert!(log.can_resume(Revision(1)));
    assert!(!log.can_resume(Revision(0)), "an event that it has not seen is gone");
    assert!(!log.can_resume(Revision(4)), "that is in the future");
}

#[test]
fn events_overflow_only_by_what_was_sent_before_the_running_call() {
    let mut log = OutputLog::default();
    for _ in 0..MAX_EVENTS + 500 {
        event(&mut log, "x");
    }
    assert_eq!(log.overflow(Revision(0)), None, "one call is never cut");
    assert_eq!(log.overflow(log.revision()), Some(Revision(500)));
    log.trim(Revision(500));
    assert_eq!(log.overflow(log.revision()), None);
}

#[test]
fn a_single_large_event_is_kept() {
    let mut log = OutputLog::default();
    let body = Bytes::from(vec![0; MAX_EVENT_BYTES + 1]);
    log.event(true, body, Leaves::WithItsCause);
    assert_eq!(log.overflow(log.revision()), None);
    event(&mut log, "x");
    assert_eq!(log.overflow(log.revision()), Some(Revision(1)));
}

#[test]
fn what_is_held_gets_its_revision_with_the_snapshot_that_contains_it() {
    let mut log = OutputLog::new(true);
    let mut cursor = Cursor::default();
    assign(&mut log, "a", "1");
    event(&mut log, "said");
    assign(&mut log, "a", "2");
    assert_eq!((log.revision(), read(&log, &mut cursor)), (Revision(0), vec![]));
    assert_eq!(log.value("a").unwrap(), "2", "the session itself reads what is held");
    log.number_held();
    assert_eq!(log.revision(), Revision(2));
    assert_eq!(read(&log, &mut cursor), ["said", "a=2}"]);
}

#[test]
fn what_is_unconfirmed_passes_by_what_is_held() {
    let mut log = OutputLog::new(true);
    let mut cursor = Cursor::default();
    assign(&mut log, "state", "running");
    log.assign("done", Bytes::from_static(b"done=1}"), 5, Leaves::Unconfirmed);
    assert_eq!(read(&log, &mut cursor), ["done=1}"]);
    assign(&mut log, "done", "2");
    log.assign("done", Bytes::from_static(b"done=3}"), 5, Leaves::Unconfirmed);
    assert_eq!(read(&log, &mut cursor), ["done=3}"], "and replaces an older value of its key");
    log.number_held();
    assert_eq!(read(&log, &mut cursor), ["state=running}"]);
    log.trim(log.revision());
    assert_eq!(log.entries().count(), 2);
}

#[test]
fn a_restored_log_goes_on_where_it_was() {
    let mut log = OutputLog::default();
    assign(&mut log, "a", "1");
    event(&mut log, "one");
    log.trim(Revision(2));
    event(&mut log, "two");
    let entries: Vec<_> = log.entries().map(|(r, entry)| (r, entry.clone())).collect();
    let (revision, dropped) = (log.revision(), log.dropped());
    let mut restored = OutputLog::restore(false, revision, dropped, entries.into_iter());
    assert_eq!(read(&restored, &mut Cursor::default()), ["a=1}", "two"]);
    assert!(restored.can_resume(Revision(2)) && !restored.can_resume(Revision(1)));
    assign(&mut restored, "a", "2");
    assert_eq!(restored.values(), (1, 4));
    assert_eq!(read(&restored, &mut Cursor::default()), ["a=1}", "two", "a=2}"]);
    restored.clear();
    assert_eq!((restored.revision(), restored.entries().count()), (Revision(4), 0));
}

#[test]
fn a_committed_value_is_told_until_its_replacement_is_committed_too() {
    for gated in [false, true] {
        let mut log = OutputLog::new(gated);
        assign(&mut log, "a", "1");
        assign(&mut log, "b", "1");
        log.begin_snapshot();
        log.committed();
        assign(&mut log, "a", "2");
        assign(&mut log, "a", "3");
        let mut slow = Cursor::default();
        let first = log.next(slow, log.revision()).map(|(_, entry)| entry.body.clone());
        assert_eq!(first.unwrap(), "a=1}", "the next owner may know nothing newer");
        assert_eq!(log.value("a").unwrap(), "3");
        log.begin_snapshot();
        assign(&mut log, "a", "4");
        assert_eq!(log.entries().count(), 2, "a snapshot has the newest only");
        log.committed();
        log.number_held();
        assert_eq!(read(&log, &mut slow), ["b=1}", "a=3}", "a=4}"]);
        log.begin_snapshot();
        log.committed();
        assert_eq!(read(&log, &mut Cursor::default()), ["b=1}", "a=4}"]);
        assert_eq!(log.values(), (2, 8));
    }
}
