//! The checker accepts what is right and rejects each kind of wrong: a checker that sees nothing is
//! worse than none.

use std::fmt::Write;

use single_state_tests::checker::{Checked, Options, Violation, check, check_answers};
use single_state_tests::history::{Event, read};

/// A tab's channel that outlives its connection and the first owner of its session, in `relaxed`.
/// Who writes stands before each line: c is the client, w0 and v0 are two processes of worker 0.
const GOOD: &str = r#"
w0 {"what":"claim","epoch":10,"version":0,"reason":"fresh"}
w0 {"what":"activate","epoch":10,"version":0,"durability":"relaxed","applied":{}}
c {"what":"welcome","channel":"tab1","attach":1,"epoch":10,"resumed":false,"applied":0,"durability":"relaxed"}
c {"what":"send","channel":"tab1","n":1,"item":"a-1"}
c {"what":"send","channel":"tab1","n":2,"item":"a-2"}
w0 {"what":"apply","epoch":10,"channel":"tab1","n":1}
c {"what":"output","channel":"tab1","epoch":10,"rev":1,"of":"count","count":1}
w0 {"what":"apply","epoch":10,"channel":"tab1","n":2}
c {"what":"output","channel":"tab1","epoch":10,"rev":2,"of":"count","count":2}
w0 {"what":"commit","epoch":10,"version":1,"applied":{"tab1":2}}
c {"what":"ack","channel":"tab1","n":2}
c {"what":"send","channel":"tab1","n":3,"item":"a-3"}
w0 {"what":"apply","epoch":10,"channel":"tab1","n":3}
c {"what":"closed","channel":"tab1","code":1006,"end":"network"}
v0 {"what":"claim","epoch":11,"version":1,"reason":"steal"}
v0 {"what":"activate","epoch":11,"version":1,"durability":"relaxed","applied":{"tab1":2}}
c {"what":"welcome","channel":"tab1","attach":2,"epoch":11,"resumed":false,"applied":2,"durability":"relaxed"}
c {"what":"reset","channel":"tab1","reason":"rolled_back"}
c {"what":"output","channel":"tab1","epoch":11,"rev":2,"of":"count","count":2}
v0 {"what":"apply","epoch":11,"channel":"tab1","n":3}
v0 {"what":"commit","epoch":11,"version":2,"applied":{"tab1":3}}
c {"what":"ack","channel":"tab1","n":3}
c {"what":"send","channel":"tab1","n":4}
v0 {"what":"apply","epoch":11,"channel":"tab1","n":4}
v0 {"what":"commit","epoch":11,"version":3,"applied":{"tab1":4}}
c {"what":"found","channel":"tab1","after":4,"items":["a-1","a-2","a-3"]}
c {"what":"mirror","channel":"tab1","mirror":{"count":3}}
c {"what":"mirror","channel":"tab2","mirror":{"count":3}}
v0 {"what":"passivate","epoch":11}
"#;

/// The lines of session `a`, each 10 µs after the one before. What is asked of the store takes 5 µs.
fn events(text: &str) -> Vec<Event> {
    let mut file = String::new();
    for (number, line) in text.lines().filter(|line| !line.is_empty()).enumerate() {
        let t = 10 * (number + 1);
        let (by, fields) = line.split_once(" {").expect("a line has a writer");
        let by = match by {
            "w0" => "worker-0/1",
            "v0" => "worker-0/2",
            "w1" => "worker-1/3",
            client => client,
        };
        let asked =
            if fields.contains("asked") { String::new() } else { format!("\"asked\":{},", t - 5) };
        writeln!(file, r#"{{"t":{t},"by":"{by}","session":"a",{asked}{fields}"#)
            .expect("a string grows");
    }
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("history");
    std::fs::write(&path, file).expect("there is room");
    read(&[path]).expect("lines are events")
}

fn check_text(text: &str) -> Result<Checked, Box<Violation>> {
    let options = Options { placement: Some(([0; 16], vec![1])), no_closes: true };
    check(&events(text), &options)
}

/// The good history with one change is rejected because of this invariant.
#[track_caller]
fn must_reject(invariant: u8, from: &str, to: &str) {
    assert!(GOOD.contains(from), "the good history has no {from}");
    must_reject_text(invariant, &GOOD.replacen(from, to, 1));
}

#[track_caller]
fn must_reject_text(invariant: u8, text: &str) {
    let violation = check_text(text).expect_err("it is accepted");
    assert_eq!(violation.invariant, invariant, "{violation}");
    assert_eq!(violation.context.iter().filter(|line| line.starts_with('>')).count(), 1);
}

/// … and with one line more after the line that contains this.
#[track_caller]
fn must_reject_line(invariant: u8, after: &str, line: &str) {
    must_reject_text(invariant, &insert(after, line));
}

fn insert(after: &str, line: &str) -> String {
    let at = GOOD.find(after).expect("the good history has it");
    let end = at + GOOD[at..].find('\n').expect("lines end");
    format!("{}\n{line}{}", &GOOD[..end], &GOOD[end..])
}

/// … and without the line that contains this.
fn without(line: &str) -> String {
    assert!(GOOD.contains(line), "the good history has no {line}");
    GOOD.lines().filter(|other| !other.contains(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_good_history_tests_every_invariant() {
    let checked = check_text(GOOD).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!((checked.sessions, checked.items), ((0, 1), (3, 3)));
    for invariant in 1..=11 {
        assert!(checked.tests[&invariant] > 0, "I{invariant} is not tested");
    }
}

#[test]
fn an_acknowledged_input_that_is_lost_is_i1() {
    must_reject(1, r#"["a-1","a-2","a-3"]"#, r#"["a-1","a-2"]"#);
    must_reject(
        1,
        r#"1,"durability":"relaxed","applied":{"tab1":2}"#,
        r#"1,"durability":"relaxed","applied":{"tab1":1}"#,
    );
    must_reject(
        1,
        r#"1,"durability":"relaxed","applied":{"tab1":2}"#,
        r#"1,"durability":"relaxed","applied":{}"#,
    );
    must_reject(1, r#""resumed":false,"applied":2"#, r#""resumed":false,"applied":1"#);
    must_reject(1, r#""applied":{"tab1":4}"#, r#""applied":{"tab1":2}"#);
}

#[test]
fn an_input_that_is_there_twice_is_i2() {
    must_reject(2, r#"["a-1","a-2","a-3"]"#, r#"["a-1","a-2","a-2","a-3"]"#);
    must_reject(2, r#""epoch":11,"channel":"tab1","n":3"#, r#""epoch":11,"channel":"tab1","n":2"#);
}

#[test]
fn inputs_out_of_order_or_with_gaps_are_i3() {
    must_reject(3, r#"["a-1","a-2","a-3"]"#, r#"["a-2","a-1","a-3"]"#);
    must_reject(3, r#"["a-1","a-2","a-3"]"#, r#"["a-1","a-3"]"#);
    must_reject_text(3, &without(r#""apply","epoch":11,"channel":"tab1","n":3"#));
    let unacknowledged = without(r#""ack","channel":"tab1","n":3"#);
    let lost = unacknowledged.replace(r#"["a-1","a-2","a-3"]"#, r#"["a-1","a-2"]"#);
    must_reject_text(3, &lost);
    must_reject(3, r#""send","channel":"tab1","n":4"#, r#""send","channel":"tab1","n":5"#);
}

#[test]
fn what_was_never_sent_is_i4() {
    must_reject(4, r#"["a-1","a-2","a-3"]"#, r#"["a-1","a-2","x","a-3"]"#);
    must_reject(4, r#""ack","channel":"tab1","n":3"#, r#""ack","channel":"tab1","n":4"#);
    must_reject(
        4,
        r#""apply","epoch":11,"channel":"tab1","n":4"#,
        r#""apply","epoch":11,"channel":"tab1","n":5"#,
    );
}

#[test]
fn what_is_said_before_its_commit_is_i5() {
    must_reject_text(5, &without(r#""commit","epoch":11,"version":2"#));
    must_reject(5, r#""version":1,"applied":{"tab1":2}"#, r#""version":1,"applied":{"tab1":1}"#);
    must_reject_text(5, &GOOD.replace("relaxed", "durable"));
}

#[test]
fn revisions_that_fall_and_mirrors_that_differ_are_i6() {
    must_reject(6, r#""epoch":10,"rev":2"#, r#""epoch":10,"rev":1"#);
    must_reject(6, r#""epoch":10,"rev":2"#, r#""epoch":9,"rev":2"#);
    must_reject(
        6,
        r#""channel":"tab2","mirror":{"count":3}"#,
        r#""channel":"tab2","mirror":{"count":2}"#,
    );
    let late = r#"c {"what":"output","channel":"tab1","epoch":10,"rev":3,"of":"count"}"#;
    must_reject_line(6, r#""what":"closed""#, late);
    let resumed = GOOD.replacen(r#"11,"resumed":false"#, r#"11,"resumed":true"#, 1);
    must_reject_text(
        6,
        &resumed.lines().filter(|line| !line.contains("reset")).collect::<Vec<_>>().join("\n"),
    );
}

#[test]
fn a_list_that_differs_from_what_its_only_client_was_told_is_i6() {
    let alone: String = GOOD
        .lines()
        .filter(|line| !line.contains("tab2"))
        .map(|line| format!("{line}\n"))
        .collect();
    let told = |count: u64| {
        let line = format!(
            r#"c {{"what":"output","channel":"tab1","epoch":11,"rev":3,"of":"count","count":{count}}}"#
        );
        let found = alone.find(r#"c {"what":"found""#).expect("it has a list");
        format!("{}{line}\n{}", &alone[..found], &alone[found..])
    };
    check_text(&told(3)).unwrap_or_else(|violation| panic!("{violation}"));
    must_reject_text(6, &told(2));
    must_reject_text(6, &told(4));
}

#[test]
fn what_is_not_acknowledged_soon_after_the_last_fault_is_i12() {
    let second = 1_000_000;
    let sent = r#"
c {"what":"welcome","channel":"tab1","attach":1,"epoch":10,"resumed":false,"applied":0,"durability":"relaxed"}
c {"what":"send","channel":"tab1","n":1,"item":"a-1"}
"#;
    let judge = |lines: &str, after: u64, healed: u64| {
        let mut events = events(&format!("{sent}{lines}"));
        let last = events.last_mut().expect("it is not empty");
        last.t += after;
        check_answers(&events, healed).map_err(|violation| violation.invariant)
    };
    let acked = r#"c {"what":"ack","channel":"tab1","n":1}"#;
    assert_eq!(judge(acked, 9 * second, 0), Ok(1));
    assert_eq!(judge(acked, 11 * second, 0), Err(12));
    assert_eq!(judge(acked, 11 * second, 5 * second), Ok(1));
    let welcomed = r#"c {"what":"welcome","channel":"tab1","attach":2,"epoch":10,"resumed":false,"applied":1,"durability":"relaxed"}"#;
    assert_eq!(judge(welcomed, 9 * second, 0), Ok(1));
    // Nothing more is heard, and somebody else has listened for long enough.
    let page = r#"c {"what":"send","channel":"page","n":1,"item":"b-1"}"#;
    assert_eq!(judge(page, 9 * second, 0), Ok(1));
    assert_eq!(judge(page, 11 * second, 0), Err(12));
    // Who has left does not wait, and a page hears of no acknowledgement.
    let left = r#"c {"what":"closed","channel":"tab1","code":1000,"end":"client"}"#;
    assert_eq!(judge(&format!("{left}\n{page}\n{page}"), 11 * second, 0), Ok(0));
    let broken = left.replace("client", "network");
    assert_eq!(judge(&format!("{broken}\n{page}"), 11 * second, 0), Err(12));
}

#[test]
fn epochs_that_repeat_or_fall_are_i7() {
    let claim =
        |epoch| format!(r#"w1 {{"what":"claim","epoch":{epoch},"version":1,"reason":"steal"}}"#);
    must_reject_line(7, r#""what":"closed""#, &claim(10));
    must_reject_line(7, r#""what":"closed""#, &claim(9));
    must_reject(7, r#""attach":2,"epoch":11"#, r#""attach":2,"epoch":9"#);
}

#[test]
fn commits_that_fall_or_come_after_a_later_claim_are_i8() {
    let commit = r#"w0 {"what":"commit","epoch":10,"version":2,"applied":{"tab1":3}}"#;
    must_reject_line(8, r#""claim","epoch":11"#, commit);
    must_reject(8, r#""epoch":11,"version":3"#, r#""epoch":11,"version":2"#);
    must_reject(8, r#""activate","epoch":11,"version":1"#, r#""activate","epoch":11,"version":0"#);
    must_reject(
        8,
        r#"v0 {"what":"commit","epoch":11,"version":3"#,
        r#"w0 {"what":"commit","epoch":11,"version":3"#,
    );
}

#[test]
fn what_a_fenced_owner_does_is_i9() {
    must_reject_line(9, r#""ack","channel":"tab1","n":2"#, r#"w0 {"what":"fenced","epoch":10}"#);
    must_reject_line(
        9,
        r#""commit","epoch":11,"version":2"#,
        r#"v0 {"what":"passivate","epoch":11}"#,
    );
}

#[test]
fn a_session_in_the_wrong_place_is_i10() {
    must_reject_text(10, &GOOD.replace("w0 {", "w1 {"));
    must_reject_text(10, &without(r#""activate","epoch":10"#));
}

/// What is said of a claim of session `a`, which belongs to worker 0 of 1 and of 3, and to worker 1 of
/// 2, or to 0 while 1 is skipped.
fn check_claim(by: &str, sizes: &[u64], fields: &str) -> Result<(), u8> {
    let claim = format!(r#"{by} {{"what":"claim","epoch":10,"version":0,{fields}}}"#);
    let options = Options { placement: Some(([0; 16], sizes.to_vec())), no_closes: false };
    check(&events(&claim), &options).map(drop).map_err(|violation| violation.invariant)
}

#[test]
fn a_session_may_be_elsewhere_when_its_claim_names_the_workers_that_were_skipped() {
    let skipping = |lists| check_claim("w0", &[2], &format!(r#""reason":"steal",{lists}"#));
    assert_eq!(skipping(r#""down":[1]"#), Ok(()));
    assert_eq!(skipping(r#""down":[],"passed_over":[1]"#), Ok(()));
    assert_eq!(skipping(r#""down":[],"passed_over":[]"#), Err(10));
    assert_eq!(skipping(r#""down":[0]"#), Err(10));
}

#[test]
fn a_session_may_be_where_its_timer_was_found_to_be_due() {
    assert_eq!(check_claim("w0", &[2], r#""reason":"due""#), Ok(()));
    assert_eq!(check_claim("w0", &[2], r#""reason":"stored""#), Err(10));
}

#[test]
fn a_session_may_be_where_any_topology_of_the_time_has_it_or_anywhere_if_none_is_known() {
    let claimed = |by, sizes: &[u64]| check_claim(by, sizes, r#""reason":"stored""#);
    assert_eq!(claimed("w0", &[3, 2]), Ok(()));
    assert_eq!(claimed("w1", &[3, 2]), Ok(()));
    assert_eq!(claimed("w1", &[3, 1]), Err(10));
    let anywhere = events(r#"w1 {"what":"claim","epoch":10,"version":0,"reason":"stored"}"#);
    assert!(check(&anywhere, &Options::default()).is_ok());
}

#[test]
fn a_socket_that_the_server_closes_is_i11_where_it_may_not() {
    must_reject(11, r#""code":1006,"end":"network""#, r#""code":1012,"end":"server""#);
    let closed = GOOD.replace(r#""code":1006,"end":"network""#, r#""code":1012,"end":"server""#);
    assert!(check(&events(&closed), &Options::default()).is_ok());
}

#[test]
fn a_save_that_was_under_way_when_another_owner_came_is_no_violation() {
    // Its answer is heard when the other claim is over; what it has saved, the other has found.
    let text = r#"
w0 {"what":"claim","epoch":10,"version":0,"reason":"fresh"}
w0 {"what":"activate","epoch":10,"version":0,"durability":"relaxed","applied":{}}
c {"what":"send","channel":"tab1","n":1,"item":"a-1"}
w0 {"what":"apply","epoch":10,"channel":"tab1","n":1}
v0 {"what":"claim","epoch":11,"version":1,"reason":"steal"}
w0 {"what":"commit","epoch":10,"asked":45,"version":1,"applied":{"tab1":1}}
v0 {"what":"activate","epoch":11,"version":1,"durability":"relaxed","applied":{"tab1":1}}
"#;
    check_text(text).unwrap_or_else(|violation| panic!("{violation}"));
    must_reject_text(8, &text.replace("45", "51"));
    must_reject_text(
        8,
        &text.replace(
            r#""activate","epoch":11,"version":1"#,
            r#""activate","epoch":11,"version":0"#,
        ),
    );
}

#[test]
fn clients_alone_tell_what_is_lost_doubled_and_out_of_order() {
    let clients: Vec<_> = GOOD.lines().filter(|line| line.starts_with("c ")).collect();
    let clients = clients.join("\n");
    let checked = check_text(&clients).unwrap_or_else(|violation| panic!("{violation}"));
    assert!((1..=4).all(|invariant| checked.tests[&invariant] > 0));
    let lists = [(1, r#"["a-1"]"#), (2, r#"["a-1","a-1"]"#), (3, r#"["a-2"]"#), (4, r#"["b-1"]"#)];
    for (invariant, list) in lists {
        must_reject_text(invariant, &clients.replace(r#"["a-1","a-2","a-3"]"#, list));
    }
}

#[test]
fn a_plain_page_may_lose_the_last_that_it_sent_before_its_socket_broke_and_nothing_else() {
    let page = r#"
c {"what":"send","channel":"page1","n":1,"item":"p-1"}
c {"what":"send","channel":"page1","n":2,"item":"p-2"}
c {"what":"closed","channel":"page1","code":1006,"end":"network"}
c {"what":"send","channel":"page2","n":1,"item":"p-3"}
c {"what":"send","channel":"page2","n":2}
c {"what":"found","channel":"page2","after":2,"items":["p-1","p-3"]}
"#;
    check_text(page).unwrap_or_else(|violation| panic!("{violation}"));
    must_reject_text(3, &page.replace(r#"["p-1","p-3"]"#, r#"["p-2","p-3"]"#));
    must_reject_text(3, &page.replace(r#"["p-1","p-3"]"#, r#"["p-1","p-2"]"#));
    must_reject_text(2, &page.replace(r#"["p-1","p-3"]"#, r#"["p-1","p-3","p-3"]"#));
}

#[test]
fn sessions_in_memory_only_may_be_lost_but_not_out_of_order() {
    let memory = GOOD.replace("relaxed", "memory");
    let lost = memory.replace(r#"["a-1","a-2","a-3"]"#, r#"["a-3"]"#);
    let checked = check_text(&lost).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(checked.sessions, (1, 0));
    must_reject_text(3, &memory.replace(r#"["a-1","a-2","a-3"]"#, r#"["a-3","a-1"]"#));
}

#[test]
fn a_channel_that_was_given_up_and_told_so_is_no_violation() {
    let gone = GOOD.replace(
        r#""version":1,"durability":"relaxed","applied":{"tab1":2}"#,
        r#""version":1,"durability":"relaxed","applied":{}"#,
    );
    must_reject_text(1, &gone);
    let end = gone.find("c {\"what\":\"welcome\",\"channel\":\"tab1\",\"attach\":2").unwrap();
    let told = format!(
        "{}c {}\n{}",
        &gone[..end],
        r#"{"what":"welcome","channel":"tab1","attach":2,"epoch":11,"resumed":false,"applied":null,"durability":"relaxed"}"#,
        r#"c {"what":"reset","channel":"tab1","reason":"channel_expired"}"#
    );
    check_text(&told).unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn a_session_that_has_ended_is_another_one_afterwards() {
    let ended =
        insert(r#"c {"what":"mirror","channel":"tab2""#, r#"v0 {"what":"delete","epoch":11}"#);
    let again = ended + "w1 {\"what\":\"claim\",\"epoch\":3,\"version\":0,\"reason\":\"fresh\"}\n";
    check_text(&again).unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn a_line_that_its_writer_could_not_end_is_passed_over_and_only_that() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    let line = r#"{"t":1,"by":"c","session":"a","what":"send","channel":"tab1","n":1}"#;
    std::fs::write(&path, format!("{line}\n{}", &line[..20])).unwrap();
    assert_eq!(read(&[&path]).unwrap().len(), 1);
    std::fs::write(&path, format!("{}\n{line}\n", &line[..20])).unwrap();
    let error = format!("{:#}", read(&[&path]).unwrap_err());
    assert!(error.contains("line 1"), "{error}");
}
