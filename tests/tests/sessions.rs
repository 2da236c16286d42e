//! The main job: browsers reach the coroutine of their session on its worker, and no other.

use std::collections::HashSet;

use anyhow::Result;
use serde_json::json;
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};

#[tokio::test]
async fn each_of_300_sessions_is_answered_by_the_worker_that_the_hash_names() -> Result<()> {
    let cluster = Cluster::start(Options::default()).await?;
    let mut used = HashSet::new();
    for i in 0..300 {
        let session = format!("chosen-{i}");
        let owner = cluster.owner(&session);
        let mut browser = Browser::connect(&cluster.url(&format!("?session={session}"))).await?;
        assert_eq!(browser.header("x-single-state-session"), Some(session.as_str()));
        assert_eq!(browser.header("x-single-state-worker"), Some(owner.to_string().as_str()));
        let answer = browser.ask(json!({"tag": "where"})).await?;
        assert_eq!((&answer["worker"], &answer["session"]), (&json!(owner), &json!(session)));
        used.insert(owner);
    }
    assert_eq!(used.len(), 3, "300 ids reach all three workers");
    Ok(())
}

#[tokio::test]
async fn a_page_of_2020_is_answered_as_in_2020() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    let mut page = Browser::connect(&cluster.url("")).await?;
    let axpy = json!({"tag": "axpy", "a": 2, "x": [1, 2], "y": [10, 20]});
    let result = json!({"tag": "assign", "key": "result_vector", "value": [12.0, 24.0]});
    assert_eq!(page.ask(axpy.clone()).await?, result);
    let error = page.ask(json!({"tag": "broken"})).await?;
    assert_eq!(error["tag"], "error");
    assert!(error["error"].is_string() && error["details"].is_string(), "{error}");
    assert_eq!(page.ask(axpy).await?, result, "the socket goes on");
    Ok(())
}

#[tokio::test]
async fn two_tabs_of_one_session_see_each_others_assigns_and_end_on_the_same_value() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    let url = cluster.url("?session=shared");
    let (mut one, mut other) = (Browser::connect(&url).await?, Browser::connect(&url).await?);
    // Both assign one key at once, in every order that the sockets make of it.
    for round in 0..50 {
        let assign = |who: &str| json!({"tag": "assign", "key": "k", "value": [who, round]});
        one.send(assign("one")).await?;
        other.send(assign("other")).await?;
        one.send(json!({"tag": "axpy", "a": 0, "x": [0], "y": [round]})).await?;
        other.send(json!({"tag": "axpy", "a": 0, "x": [0], "y": [round + 1000]})).await?;
    }
    for tab in [&mut one, &mut other] {
        tab.send(json!({"tag": "items"})).await?;
    }
    // Each tab's `items` event comes after all that it had sent; both get both events.
    let (mut last_one, mut last_other) = (json!(null), json!(null));
    for (tab, last) in [(&mut one, &mut last_one), (&mut other, &mut last_other)] {
        let mut events = 0;
        while events < 2 {
            let message = tab.receive().await?;
            match message["tag"].as_str() {
                Some("assign") if message["key"] == "k" => *last = message["value"].clone(),
                Some("items") => events += 1,
                _ => {}
            }
        }
    }
    assert_eq!(last_one, last_other);
    assert!(!last_one.is_null());
    Ok(())
}

#[tokio::test]
async fn a_later_tab_gets_every_assigned_key_and_no_older_event() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    let url = cluster.url("?session=later");
    let mut first = Browser::connect(&url).await?;
    first.ask(json!({"tag": "assign", "key": "a", "value": 1})).await?;
    first.ask(json!({"tag": "broken"})).await?;
    first.ask(json!({"tag": "assign", "key": "b", "value": {"c": [2]}})).await?;
    let mut later = Browser::connect(&url).await?;
    assert_eq!(later.receive().await?, json!({"tag": "assign", "key": "a", "value": 1}));
    assert_eq!(later.receive().await?, json!({"tag": "assign", "key": "b", "value": {"c": [2]}}));
    assert_eq!(later.ask(json!({"tag": "items"})).await?["tag"], "items", "nothing came between");
    Ok(())
}

#[tokio::test]
async fn an_unchanged_value_of_a_tab_goes_nowhere() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    let mut tab = Browser::connect(&cluster.url("")).await?;
    let assign = json!({"tag": "assign", "key": "a", "value": 1});
    assert_eq!(tab.ask(assign.clone()).await?, assign, "the sender gets its own assign too");
    tab.send(assign).await?;
    assert_eq!(tab.ask(json!({"tag": "items"})).await?["tag"], "items");
    Ok(())
}

#[tokio::test]
async fn a_tab_that_stops_reading_gets_the_newest_value_and_costs_no_memory() -> Result<()> {
    const ROUNDS: u64 = 10_000;
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    let url = cluster.url("?session=slow");
    let mut slow = Browser::connect_slow(&url).await?;
    let mut busy = Browser::connect(&url).await?;
    let padding = "x".repeat(1000);
    let value = |n: u64| json!([n, padding]);
    let assign = |n: u64| json!({"tag": "assign", "key": "k", "value": value(n)});
    busy.ask(assign(0)).await?;
    let memory = || -> Result<u64> {
        let worker = cluster.workers[0].process.resident_kib()?;
        Ok(worker + cluster.gateway.process.resident_kib()?)
    };
    let before = memory()?;
    for n in 1..=ROUNDS {
        busy.ask(assign(n)).await?;
    }
    let grown = memory()?.saturating_sub(before);
    assert!(grown < 4 * 1024, "10 MB went by an idle reader, memory grew by {grown} KiB");

    let (mut received, mut last) = (0, json!(null));
    while last != value(ROUNDS) {
        last = slow.receive().await?["value"].take();
        received += 1;
    }
    assert!(received < ROUNDS, "old values are skipped");
    Ok(())
}

#[tokio::test]
async fn a_session_that_waits_or_computes_for_5_s_delays_no_other() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::fixture() }).await?;
    let mut waiting = Browser::connect(&cluster.url("?session=waiting")).await?;
    let mut computing = Browser::connect(&cluster.url("?session=computing")).await?;
    let mut other = Browser::connect(&cluster.url("?session=other")).await?;
    waiting.send(json!({"tag": "wait", "seconds": 5})).await?;
    computing.send(json!({"tag": "compute", "seconds": 5})).await?;
    for _ in 0..25 {
        assert_eq!(other.ask(json!({"tag": "ping"})).await?["tag"], "pong");
    }
    assert_eq!(waiting.try_receive(), None, "all answers came before the one that waits");
    assert_eq!(computing.try_receive(), None, "all answers came before the one that computes");
    assert_eq!(waiting.receive().await?["tag"], "waited");
    assert_eq!(computing.receive().await?["tag"], "computed");
    Ok(())
}

#[tokio::test]
async fn a_panic_is_reported_and_ends_nothing() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::fixture() }).await?;
    let mut tab = Browser::connect(&cluster.url("")).await?;
    tab.ask(json!({"tag": "append", "n": 1})).await?;
    let error = tab.ask(json!({"tag": "panic"})).await?;
    assert_eq!(error["error"], "the app panicked: asked to");
    assert_eq!(tab.ask(json!({"tag": "list"})).await?["items"], json!([1]));
    Ok(())
}

#[tokio::test]
async fn messages_are_handled_once_and_in_order_however_many_are_sent_at_once() -> Result<()> {
    const MESSAGES: u64 = 5_000;
    let cluster = Cluster::start(Options { workers: 1, ..Options::fixture() }).await?;
    let mut tab = Browser::connect(&cluster.url("")).await?;
    for n in 0..MESSAGES {
        tab.send(json!({"tag": "append", "n": n})).await?;
    }
    tab.send(json!({"tag": "list"})).await?;
    let list = tab.receive_where(|message| message["tag"] == "list").await?;
    assert_eq!(list["items"], json!((0..MESSAGES).collect::<Vec<_>>()));
    Ok(())
}

#[tokio::test]
async fn what_one_call_sends_is_never_cut_and_a_tab_too_slow_for_events_must_reload() -> Result<()>
{
    let cluster = Cluster::start(Options { workers: 1, ..Options::fixture() }).await?;
    let url = cluster.url("?session=events");
    let mut slow = Browser::connect_slow(&url).await?;
    let mut quick = Browser::connect(&url).await?;
    for round in 0..8 {
        quick.send(json!({"tag": "burst", "events": 1200, "bytes": 2000})).await?;
        for n in 0..1200 {
            assert_eq!(quick.receive().await?["n"], n, "in round {round}");
        }
    }
    assert_eq!(slow.closed().await?, 4410);
    assert_eq!(quick.ask(json!({"tag": "ping"})).await?["tag"], "pong");
    Ok(())
}

#[tokio::test]
async fn binary_messages_go_both_ways_untouched() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::fixture() }).await?;
    let mut tab = Browser::connect(&cluster.url("")).await?;
    let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    tab.send_binary(bytes.clone()).await?;
    assert_eq!(tab.receive_binary().await?, bytes);
    Ok(())
}

#[tokio::test]
async fn a_session_that_ends_closes_its_tabs_and_starts_from_nothing() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::fixture() }).await?;
    let url = cluster.url("?session=ends");
    let (mut one, mut other) = (Browser::connect(&url).await?, Browser::connect(&url).await?);
    one.ask(json!({"tag": "append", "n": 1})).await?;
    one.send(json!({"tag": "end"})).await?;
    assert_eq!(one.closed().await?, 4410);
    assert_eq!(other.closed().await?, 4410);
    let mut again = Browser::connect(&url).await?;
    assert_eq!(again.ask(json!({"tag": "list"})).await?["items"], json!([]));
    Ok(())
}

#[tokio::test]
async fn a_new_browser_gets_an_id_of_its_own_and_comes_back_with_its_cookie() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    let (one, other) =
        (Browser::connect(&cluster.url("")).await?, Browser::connect(&cluster.url("")).await?);
    let id = |browser: &Browser| browser.header("x-single-state-session").map(str::to_owned);
    assert_ne!(id(&one), id(&other));
    let cookie = one.header("set-cookie").unwrap_or_default().to_owned();
    let pair = cookie.split(';').next().unwrap_or_default();
    assert_eq!(pair.strip_prefix("single_state="), id(&one).as_deref());
    let back = Browser::connect_with_cookie(&cluster.url(""), pair).await?;
    assert_eq!(id(&back), id(&one));
    assert_eq!(back.header("set-cookie"), Some(cookie.as_str()), "it is renewed");
    let new = Browser::connect_with_cookie(&cluster.url("?session=new"), pair).await?;
    assert_ne!(id(&new), id(&one));
    Ok(())
}
