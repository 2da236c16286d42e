//! Who may link: a gateway and a worker with a common key, and without keys only on one machine.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::dev::{Project, addresses_in, wait_for};
use single_state_tests::process::{Process, program};
use tempfile::NamedTempFile;
use tokio::process::Command;

/// A file of keys, each of one hex digit.
fn key_file(digits: &str) -> Result<NamedTempFile> {
    let mut text = "# first proves\n".to_owned();
    for digit in digits.chars() {
        writeln!(text, "{}", digit.to_string().repeat(64))?;
    }
    let file = NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    Ok(file)
}

fn path(file: &NamedTempFile) -> Result<&str> {
    file.path().to_str().context("a path in UTF-8")
}

/// A worker of index 1, at an address that is free again.
async fn stranger(address: &str, flags: &[&str]) -> Result<Process> {
    let mut command = Command::new(program("fixture"));
    command.args(["--index", "1", "--listen", address, "--admin-listen", "127.0.0.1:0"]);
    command.args(["--log-format", "json"]).args(flags);
    let process = Process::spawn("stranger", command)?;
    process.wait_for_message("worker listens").await?;
    Ok(process)
}

/// Waits until a process has said that a link ended for this reason.
async fn wait_for_reason(process: &Process, message: &str, reason: &str) -> Result<()> {
    let found = process.wait_for_line(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == message && line["reason"] == reason).then_some(())
    });
    found.await.with_context(|| format!("{message}: {reason}"))
}

/// In the place of worker 1 there is another one for a while: it is refused, both say why, and the
/// cluster serves on without it.
async fn check_stranger(options: Options, flags: &[&str], reasons: [&str; 2]) -> Result<()> {
    let mut cluster = Cluster::start(options).await?;
    let (ours, theirs) = (cluster.session_on(0, "ours"), cluster.session_on(1, "theirs"));
    let mut neighbour = Browser::connect(&cluster.url(&format!("?session={ours}"))).await?;
    cluster.kill_worker(1).await?;
    cluster.wait_for_worker(1, "down").await?;
    let mut worker = stranger(&cluster.workers[1].address, flags).await?;
    let mut browser = Browser::connect(&cluster.url(&format!("?session={theirs}"))).await?;
    browser.send(json!({"tag": "append", "n": 1})).await?;

    let [by_gateway, by_worker] = reasons;
    wait_for_reason(&cluster.gateway.process, "link refused", by_gateway).await?;
    wait_for_reason(&worker, "gateway's link ended", by_worker).await?;
    let status = cluster.gateway.status().await?;
    assert_eq!(status["workers"][1]["state"], "down");
    assert_eq!(status["workers"][1]["streams"], 0);
    browser.send(json!({"tag": "list"})).await?;
    let by_the_other = browser.receive_where(|message| message["tag"] == "list").await?;
    assert_eq!(by_the_other["items"], json!([1]), "it is served by a worker of the cluster");
    assert_eq!(neighbour.ask(json!({"tag": "list"})).await?["items"], json!([]));

    worker.kill().await?;
    cluster.restart_worker(1).await
}

#[tokio::test]
async fn a_cluster_with_link_keys_serves_also_in_the_middle_of_a_rotation() -> Result<()> {
    let (old_first, new_first) = (key_file("ab")?, key_file("ba")?);
    let options = Options { workers: 2, ..Options::fixture() }
        .gateway_flag("--link-key-file", path(&old_first)?)
        .worker_flag("--link-key-file", path(&new_first)?);
    let cluster = Cluster::start(options).await?;
    for index in 0..2 {
        let session = cluster.session_on(index, "keyed");
        let mut browser = Browser::connect(&cluster.url(&format!("?session={session}"))).await?;
        browser.ask(json!({"tag": "append", "n": 1})).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_worker_with_another_key_or_none_is_refused_and_gets_no_browser() -> Result<()> {
    let (key, other) = (key_file("a")?, key_file("b")?);
    let options = Options { workers: 2, ..Options::fixture() }
        .gateway_flag("--link-key-file", path(&key)?)
        .worker_flag("--link-key-file", path(&key)?);
    let wrong = "the peer's proof was not made with a link key of this process";
    let flags = ["--link-key-file", path(&other)?];
    check_stranger(options.clone(), &flags, [wrong, wrong]).await?;
    let reasons = [
        "the peer has no link key, this process was started with one",
        "the peer wants proof of a link key, this process was started without one",
    ];
    check_stranger(options, &[], reasons).await
}

#[tokio::test]
async fn a_worker_with_a_key_refuses_a_gateway_that_has_none() -> Result<()> {
    let key = key_file("a")?;
    let options = Options { workers: 2, ..Options::fixture() };
    let reasons = [
        "the peer wants proof of a link key, this process was started without one",
        "the peer has no link key, this process was started with one",
    ];
    check_stranger(options, &["--link-key-file", path(&key)?], reasons).await
}

#[tokio::test]
async fn bare_links_beyond_loopback_are_one_sentence_among_all_mistakes_and_exit_code_64()
-> Result<()> {
    for (name, line, [another, bare]) in [
        (
            "gateway",
            "run --unsigned-sessions --workers 127.0.0.1:7000,10.0.0.1:7000 --placement ring",
            ["--placement", "gateway run: --workers 10.0.0.1:7000: "],
        ),
        (
            "gateway",
            "run --workers 0.0.0.0:7000",
            ["--session-keys-file", "gateway run: --workers 0.0.0.0:7000: "],
        ),
        (
            "worker",
            "--listen 0.0.0.0:0 --index 5000",
            ["--index", "worker: --listen 0.0.0.0:0: a link beyond loopback needs --link-key-file"],
        ),
    ] {
        let mut command = Command::new(program(name));
        command.args(line.split(' '));
        let mut process = Process::spawn(name, command)?;
        assert_eq!(process.wait().await?.code(), Some(64), "{name} {line}");
        for part in [another, bare, "--insecure-links"] {
            process.wait_for_line(|line| line.contains(part).then_some(())).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_worker_listens_for_all_with_a_key_or_when_it_is_told_to() -> Result<()> {
    let key = key_file("a")?;
    for flags in [&["--insecure-links"][..], &["--link-key-file", path(&key)?]] {
        stranger("0.0.0.0:0", flags).await?;
    }
    for (variable, value) in [
        ("SINGLE_STATE_INSECURE_LINKS", "1"),
        ("SINGLE_STATE_INSECURE_LINKS", "true"),
        ("SINGLE_STATE_LINK_KEY_FILE", path(&key)?),
    ] {
        let mut command = Command::new(program("worker"));
        command.args(["--listen", "0.0.0.0:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--log-format", "json"]).env(variable, value);
        let process = Process::spawn("worker", command)?;
        process.wait_for_message("worker listens").await.with_context(|| variable.to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn gateway_dev_needs_no_key_and_takes_none_from_its_environment() -> Result<()> {
    let key = key_file("a")?;
    let project = Project::new().await?;
    let arguments = ["dev", "--listen", "127.0.0.1:0", "--workers", "1", "--", "bin/worker"];
    let mut command = project.gateway(&arguments);
    command.env("SINGLE_STATE_LINK_KEY_FILE", key.path());
    let process = Process::spawn("gateway dev", command)?;
    let (_, admin) = process.wait_for_line(addresses_in).await?;
    wait_for(async || {
        let (_, status) = single_state_tests::cluster::http_get(&admin, "/status").await?;
        let status: Value = serde_json::from_str(&status)?;
        anyhow::ensure!(status["workers"][0]["state"] == "up", "{status}");
        Ok(())
    })
    .await
}
