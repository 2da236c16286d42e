//! `worker sessions …`: what operators see of saved sessions and do to them, beside workers that run.

use std::process::Stdio;
use std::time::SystemTime;

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::{Value, json};
use single_state_proto::id::{Epoch, Generation, Incarnation, WorkerIndex};
use single_state_store::{Owner, Save, Settings, SharedStore, Version};
use single_state_tests::DEADLINE;
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::postgres::TempPostgres;
use single_state_tests::process::program;
use tempfile::TempDir;
use tokio::process::Command;

/// What a command came to.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(program("worker"));
    command.arg("sessions").args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs `worker sessions …`.
async fn sessions(args: &[&str]) -> Result<Ended> {
    let output = tokio::time::timeout(DEADLINE, command(args).output()).await;
    let output = output.context("the command does not end")??;
    Ok(Ended {
        code: output.status.code().context("killed")?,
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}

/// What a command prints that succeeds.
async fn print(args: &[&str]) -> Result<String> {
    let ended = sessions(args).await?;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{args:?}");
    Ok(ended.out)
}

async fn show(store: &str, session: &str) -> Result<Value> {
    Ok(serde_json::from_str(&print(&["show", session, "--store", store]).await?)?)
}

fn sqlite(folder: &TempDir) -> String {
    format!("sqlite:{}/sessions.sqlite", folder.path().display())
}

/// A cluster of one worker, with a page whose session has two items that are committed.
async fn with_items(options: Options, session: &str) -> Result<(Cluster, Browser)> {
    let cluster = Cluster::start(Options { workers: 1, ..options }).await?;
    let mut browser = Browser::connect(&cluster.url(&format!("?session={session}"))).await?;
    for (item, count) in [("milk", 1), ("bread", 2)] {
        browser.send(json!({"tag": "append", "item": item})).await?;
        browser.wait_for("count", &json!(count)).await?;
    }
    let committed = |status: &Value| status["dirty"] == 0 && status["commits"] != 0;
    cluster.wait_for_worker_status(0, committed).await?;
    Ok((cluster, browser))
}

async fn items(browser: &mut Browser) -> Result<Value> {
    browser.send(json!({"tag": "items"})).await?;
    Ok(browser.receive_where(|message| message["tag"] == "items").await?["items"].take())
}

/// A store of the test's own, as workers have it.
async fn open(url: &str) -> Result<SharedStore> {
    let store = single_state_store::open(url, Settings::default())?;
    store.prepare().await?;
    Ok(store)
}

#[tokio::test]
async fn a_session_is_listed_and_shown_while_its_worker_has_it() -> Result<()> {
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    let (_cluster, mut browser) = with_items(Options::default().store(&store), "anna").await?;

    let table = print(&["list", "--store", &store]).await?;
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..4], ["id", "owner", "epoch", "version"], "{table}");
    assert_eq!((lines.len(), &lines[1][..2]), (2, &["anna", "0"][..]), "{table}");

    let shown = show(&store, "anna").await?;
    assert_eq!(shown["app"]["items"], json!(["milk", "bread"]), "{shown:#}");
    assert_eq!((&shown["session"], &shown["owner"]), (&json!("anna"), &json!(0)));
    let count = json!({"tag": "assign", "key": "count", "value": 2});
    let outputs = shown["library"]["outputs"].as_array().context("no outputs")?;
    assert!(outputs.iter().any(|output| output["body"] == count), "{shown:#}");
    assert_eq!(shown.get("error"), None);

    let line: Value = serde_json::from_str(&print(&["list", "--json", "--store", &store]).await?)?;
    for number in ["epoch", "version", "bytes", "app_version", "strikes", "updated_at"] {
        assert_eq!(line[number], shown[number], "{number}");
    }
    assert_eq!(items(&mut browser).await?, json!(["milk", "bread"]), "nothing was touched");
    Ok(())
}

#[tokio::test]
async fn a_discarded_session_is_empty_and_its_page_stays_connected() -> Result<()> {
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    // Durable: the worker that has lost the session says nothing of it any more.
    let options = Options::default().store(&store).worker_flag("--durability", "durable");
    let (_cluster, mut browser) = with_items(options, "anna").await?;
    assert_eq!(print(&["discard", "anna", "--store", &store]).await?, "");
    let shown = show(&store, "anna").await?;
    assert_eq!((&shown["version"], &shown["app"]), (&json!(0), &Value::Null));
    assert_eq!(items(&mut browser).await?, json!([]));
    browser.send(json!({"tag": "append", "item": "tea"})).await?;
    browser.wait_for("count", &json!(1)).await?;
    assert_eq!(show(&store, "anna").await?["app"]["items"], json!(["tea"]));
    Ok(())
}

#[tokio::test]
async fn a_session_that_ended_its_workers_is_released_with_all_its_state() -> Result<()> {
    let folder = TempDir::new()?;
    let url = sqlite(&folder);
    let (mut cluster, mut browser) = with_items(Options::default().store(&url), "anna").await?;
    cluster.kill_worker(0).await?;
    let epoch = show(&url, "anna").await?["epoch"].as_u64().context("no epoch")?;
    let store = open(&url).await?;
    for _ in 0..3 {
        store.strike(&[("anna".parse()?, Epoch(epoch))]).await?;
    }
    let table = print(&["list", "--store", &url]).await?;
    assert!(table.trim_end().ends_with("quarantined"), "{table}");

    assert_eq!(print(&["release", "anna", "--store", &url]).await?, "");
    let shown = show(&url, "anna").await?;
    assert_eq!((&shown["owner"], &shown["strikes"]), (&Value::Null, &json!(0)));
    cluster.restart_worker(0).await?;
    assert_eq!(items(&mut browser).await?, json!(["milk", "bread"]));
    Ok(())
}

#[tokio::test]
async fn a_release_does_not_disturb_the_worker_that_has_the_session() -> Result<()> {
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    let options = Options::default().store(&store).worker_flag("--durability", "durable");
    let (_cluster, mut browser) = with_items(options, "anna").await?;
    print(&["release", "anna", "--store", &store]).await?;
    assert_eq!(show(&store, "anna").await?["owner"], Value::Null);
    browser.send(json!({"tag": "append", "item": "tea"})).await?;
    browser.wait_for("count", &json!(3)).await?;
    assert_eq!(items(&mut browser).await?, json!(["milk", "bread", "tea"]));
    Ok(())
}

#[tokio::test]
async fn all_rows_come_in_order_and_whoever_has_read_enough_may_leave() -> Result<()> {
    const ROWS: usize = 2000;
    let folder = TempDir::new()?;
    let url = sqlite(&folder);
    let store = open(&url).await?;
    let owner = Owner {
        index: WorkerIndex(0),
        incarnation: Incarnation(1),
        generation: Generation(0),
        app_version: 0,
    };
    let ids: Vec<_> = (0..ROWS).map(|n| format!("session-{n:04}")).collect();
    for some in ids.chunks(250) {
        let saves = some.iter().map(|id| {
            anyhow::Ok(Save {
                session: id.parse()?,
                epoch: Epoch(1),
                version: Version(1),
                codec: 1,
                state: Bytes::from_static(b"no snapshot"),
                wake_at: Some(SystemTime::UNIX_EPOCH),
                kept: Vec::new(),
                first: true,
            })
        });
        store.save(&owner, &saves.collect::<Result<Vec<_>>>()?).await?;
    }

    let listed = print(&["list", "--json", "--store", &url]).await?;
    let listed: Vec<Value> = listed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert!(listed.iter().map(|row| &row["session"]).eq(&ids), "not all, or not in order");
    let part = print(&["list", "--after", "session-0998", "--limit", "2", "--store", &url]).await?;
    let part: Vec<_> = part.lines().skip(1).map(|line| &line[..12]).collect();
    assert_eq!(part, ["session-0999", "session-1000"]);

    // More than a pipe holds: the command writes until nobody reads.
    let mut list = command(&["list", "--store", &url]);
    let mut list = list.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    drop(list.stdout.take());
    let ended = tokio::time::timeout(DEADLINE, list.wait_with_output()).await??;
    assert_eq!((ended.status.code(), &*ended.stderr), (Some(0), &b""[..]));
    Ok(())
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_is_shown_as_far_as_it_goes() -> Result<()> {
    let folder = TempDir::new()?;
    let url = sqlite(&folder);
    let (mut cluster, _browser) = with_items(Options::default().store(&url), "anna").await?;
    cluster.kill_worker(0).await?;
    let file = folder.path().join("sessions.sqlite");
    rusqlite::Connection::open(file)?.execute("UPDATE session SET state = x'00ff'", [])?;
    let shown = show(&url, "anna").await?;
    assert_eq!(shown["error"], "its snapshot is damaged: the checksum does not match");
    assert_eq!((&shown["owner"], &shown["app"]), (&json!(0), &Value::Null));
    assert_eq!(shown.get("state"), None);
    let raw: Value =
        serde_json::from_str(&print(&["show", "anna", "--raw", "--store", &url]).await?)?;
    assert_eq!(raw["state"], "AP8=");
    Ok(())
}

#[tokio::test]
async fn a_session_that_is_not_there_is_named_with_its_cluster() -> Result<()> {
    let folder = TempDir::new()?;
    let store = sqlite(&folder);
    open(&store).await?;
    for what in ["show", "discard", "release"] {
        let ended = sessions(&[what, "nobody", "--store", &store, "--cluster", "blue"]).await?;
        assert_eq!((ended.code, ended.out.as_str()), (1, ""));
        assert_eq!(ended.err, "no session \"nobody\" in cluster \"blue\"\n");
    }
    assert_eq!(print(&["list", "--store", &store]).await?.lines().count(), 1, "none was made");
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_not_there_is_a_failure_in_one_sentence() -> Result<()> {
    let folder = TempDir::new()?;
    let away = "postgres://worker:hunter2@127.0.0.1:1/sessions";
    for store in [sqlite(&folder).as_str(), away] {
        for what in [&["list"][..], &["show", "anna"], &["discard", "anna"]] {
            let ended = sessions(&[what, &["--store", store]].concat()).await?;
            assert_eq!((ended.code, ended.out.as_str()), (1, ""));
            assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
            assert!(ended.err.contains("--store"), "{}", ended.err);
            assert!(!ended.err.contains("hunter2"), "{}", ended.err);
        }
    }
    assert_eq!(folder.path().read_dir()?.count(), 0, "a path that was mistyped makes no file");
    Ok(())
}

#[tokio::test]
async fn all_mistakes_are_told_at_once() -> Result<()> {
    let show = "show a/b --store redis://x --cluster= --store-timeout soon --wat";
    let list = "list --store memory: --limit 0 --after ä --store-connections many";
    for (line, wanted) in [
        (show, &["ID \"a/b\"", "--store: ", "--cluster", "--store-timeout", "--wat"][..]),
        (list, &["--store memory:", "--limit 0", "--after \"ä\"", "--store-connections"]),
        ("release", &["say which session"]),
        ("discard a b", &["'b'"]),
        ("forget a", &["'forget'"]),
    ] {
        let ended = sessions(&line.split(' ').collect::<Vec<_>>()).await?;
        assert_eq!((ended.code, ended.out.as_str()), (64, ""), "{line}");
        for part in wanted {
            assert!(ended.err.contains(part), "{part} is missing in:\n{}", ended.err);
        }
        assert!(ended.err.ends_with("see `worker sessions --help`\n"), "{}", ended.err);
    }
    assert_eq!(sessions(&[]).await?.code, 64);
    Ok(())
}

#[tokio::test]
async fn help_of_a_worker_leads_to_the_commands() -> Result<()> {
    let help = Command::new(program("worker")).arg("--help").output().await?;
    assert!(String::from_utf8(help.stdout)?.contains("`worker sessions --help`"));
    let help = print(&["--help"]).await?;
    for command in ["list", "show", "discard", "release"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
    }
    Ok(())
}

#[tokio::test]
async fn the_store_may_be_named_by_the_environment() -> Result<()> {
    let folder = TempDir::new()?;
    let url = sqlite(&folder);
    open(&url).await?;
    let mut show = command(&["show", "nobody"]);
    show.env("SINGLE_STATE_STORE", &url).env("SINGLE_STATE_CLUSTER", "blue");
    let err = String::from_utf8(show.output().await?.stderr)?;
    assert_eq!(err, "no session \"nobody\" in cluster \"blue\"\n");
    Ok(())
}

#[tokio::test]
async fn sessions_in_postgresql_are_listed_shown_released_and_discarded() -> Result<()> {
    let server = TempPostgres::shared().await?;
    let store = server.url();
    let options = Options::default().store(&store).worker_flag("--durability", "durable");
    let (_cluster, mut browser) = with_items(options, "anna").await?;
    let table = print(&["list", "--store", &store]).await?;
    assert!(table.lines().any(|line| line.starts_with("anna  0 ")), "{table}");
    assert_eq!(show(&store, "anna").await?["app"]["items"], json!(["milk", "bread"]));
    print(&["release", "anna", "--store", &store]).await?;
    assert_eq!(show(&store, "anna").await?["owner"], Value::Null);
    assert_eq!(items(&mut browser).await?, json!(["milk", "bread"]));
    print(&["discard", "anna", "--store", &store]).await?;
    assert_eq!(show(&store, "anna").await?["app"], Value::Null);
    assert_eq!(items(&mut browser).await?, json!([]));
    let ended = sessions(&["show", "nobody", "--store", &store]).await?;
    assert_eq!(
        (ended.code, ended.err.as_str()),
        (1, "no session \"nobody\" in cluster \"default\"\n")
    );
    Ok(())
}
