//! Where a gateway learns who its workers are, and what operators ask about it.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use single_state_tests::DEADLINE;
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Cluster, Node, Options, PLACEMENT_KEY};
use single_state_tests::process::{Process, program};
use single_state_tests::siphash::siphash24;
use tempfile::TempDir;
use tokio::process::Command;

/// A topology file that is replaced as a whole, as tools replace files.
struct File {
    folder: TempDir,
    path: PathBuf,
}

impl File {
    fn new(generation: u64, workers: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = Self { path: folder.path().join("topology.json"), folder };
        file.publish(generation, workers)?;
        Ok(file)
    }

    fn publish(&self, generation: u64, workers: &[&str]) -> Result<()> {
        self.write(&json!({"generation": generation, "workers": workers}).to_string())
    }

    fn write(&self, text: &str) -> Result<()> {
        let other = self.folder.path().join("other");
        fs::write(&other, text)?;
        Ok(fs::rename(other, &self.path)?)
    }

    fn source(&self) -> String {
        format!("file:{}", self.path.display())
    }
}

fn key() -> String {
    PLACEMENT_KEY.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A gateway of its own whose workers a file names.
async fn gateway(file: &File) -> Result<Node> {
    let mut command = Command::new(program("gateway"));
    command
        .args(["run", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(["--log-format", "json", "--unsigned-sessions", "--placement-key", &key()])
        .args(["--topology", &file.source()]);
    let process = Process::spawn("gateway", command)?;
    let line = process.wait_for_message("gateway listens").await?;
    let address = |field: &str| line[field].as_str().map(str::to_owned).context("no address");
    let (address, admin) = (address("listen")?, address("admin_listen")?);
    let gateway = Node { process, address, admin, place: None };
    wait_for_status(&gateway, |status| status["generation"].is_u64()).await?;
    Ok(gateway)
}

/// Waits for a log line of ERROR that has all `parts`; how many there are by then.
async fn told(gateway: &Node, parts: &[&str]) -> Result<usize> {
    let is = |line: &str| line.contains("ERROR") && parts.iter().all(|part| line.contains(part));
    gateway.process.wait_for_line(|line| is(line).then_some(())).await?;
    Ok(gateway.process.output().lines().filter(|line| is(line)).count())
}

/// What a command came to.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

async fn run(args: &[&str]) -> Result<Ended> {
    let mut command = Command::new(program("gateway"));
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output()).await;
    let output = output.context("the command does not end")??;
    Ok(Ended {
        code: output.status.code().context("killed")?,
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}

#[tokio::test]
async fn a_gateway_serves_browsers_for_the_workers_that_a_file_names() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 2, ..Options::default() }).await?;
    let addresses: Vec<&str> = cluster.workers.iter().map(|w| &*w.address).collect();
    let file = File::new(7, &addresses)?;
    let gateway = gateway(&file).await?;
    for index in 0..2 {
        let session = cluster.session_on(index, "file");
        let url = format!("ws://{}/ws?session={session}", gateway.address);
        Browser::connect(&url).await?.ask(json!({"tag": "items"})).await?;
    }
    assert_eq!(gateway.status().await?["generation"], 7);
    Ok(())
}

#[tokio::test]
async fn a_bad_topology_file_is_told_once_and_the_last_good_one_stays() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 1, ..Options::default() }).await?;
    let worker = &*cluster.workers[0].address;
    let file = File::new(2, &[worker])?;
    let gateway = gateway(&file).await?;
    let stays = "generation 2 stays";

    for _ in 0..3 {
        file.write(r#"{"generation": 3, "workers": ["#)?;
        told(&gateway, &["EOF while parsing", stays]).await?;
    }
    file.publish(1, &[worker])?;
    told(&gateway, &["generation 1 is lower than 2", stays]).await?;
    assert_eq!(told(&gateway, &["EOF while parsing"]).await?, 1, "each once");
    file.publish(2, &[worker, "127.0.0.1:1"])?;
    told(&gateway, &["generation 2 is in force with another content", stays]).await?;
    file.publish(3, &[worker, "worker-1.example:7000"])?;
    told(&gateway, &["worker-1.example:7000: a link beyond loopback", stays]).await?;
    file.write(&json!({"generation": 3, "worker": [worker]}).to_string())?;
    told(&gateway, &["unknown field `worker`", stays]).await?;
    fs::remove_file(&file.path)?;
    told(&gateway, &["No such file", stays]).await?;

    let url = format!("ws://{}/ws?session=a", gateway.address);
    Browser::connect(&url).await?.ask(json!({"tag": "items"})).await?;
    assert_eq!(gateway.status().await?["generation"], 2);
    file.publish(3, &[worker])?;
    let taken = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["topology.generation"] == 3).then_some(())
    };
    gateway.process.wait_for_line(taken).await
}

#[tokio::test]
async fn a_gateway_without_a_usable_topology_ends_with_64_and_all_mistakes() -> Result<()> {
    let file = File::new(1, &["127.0.0.1:7000"])?;
    file.write("{}")?;
    let both = ["run", "--workers", "127.0.0.1:1", "--topology", &file.source()];
    let ended = run(&both).await?;
    assert_eq!((ended.code, ended.out.as_str()), (64, ""));
    for part in ["--workers and --topology: choose one", "--session-keys-file"] {
        assert!(ended.err.contains(part), "{part} in {ended:?}");
    }
    let ended = run(&["run", "--topology", &file.source()]).await?;
    assert_eq!(ended.code, 64);
    for part in [": missing field `generation`", "--session-keys-file"] {
        assert!(ended.err.contains(part), "{part} in {ended:?}");
    }
    Ok(())
}

#[tokio::test]
async fn show_says_who_owns_a_session_and_which_attempts_were_passed_over() -> Result<()> {
    let workers = "127.0.0.1:7000,127.0.0.1:7001,127.0.0.1:7002";
    let key = key();
    let show = ["topology", "show", "--workers", workers, "--placement-key", &key];
    let ended = run(&[&show[..], &["alice"]].concat()).await?;
    let hash = siphash24(&PLACEMENT_KEY, b"alice");
    let home = hash % 3;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let expected = format!(
        "session alice: worker {home}, 127.0.0.1:700{home}\n  attempt 0: hash {hash} mod 3 = {home}\n"
    );
    assert!(ended.out.ends_with(&expected), "{}", ended.out);

    let index = home.to_string();
    let ended = run(&[&show[..], &["alice", "--json", "--down", &index]].concat()).await?;
    assert!(!format!("{ended:?}").contains(&key), "the key is a secret: {ended:?}");
    let document: Value = serde_json::from_str(&ended.out)?;
    let attempts = document["sessions"][0]["attempts"].as_array().context("no attempts")?;
    for (number, attempt) in attempts.iter().enumerate() {
        let mut salted = b"alice".to_vec();
        salted.extend((number > 0).then_some(number as u8));
        let hash = siphash24(&PLACEMENT_KEY, &salted);
        let expected = json!({"attempt": number, "hash": hash.to_string(), "worker": hash % 3,
                              "down": hash % 3 == home});
        assert_eq!(attempt, &expected);
    }
    let last = attempts.last().context("no attempt")?;
    assert_eq!(
        (&document["sessions"][0]["owner"], &last["down"]),
        (&last["worker"], &json!(false))
    );

    let ended = run(&[&show[..], &["a b", "--down", "x"]].concat()).await?;
    assert_eq!(ended.code, 64, "{ended:?}");
    assert!(ended.err.contains("ID \"a b\"") && ended.err.contains("--down \"x\""), "{ended:?}");
    assert_eq!(run(&[&show[..], &["--down", "3"]].concat()).await?.code, 1);
    Ok(())
}

#[tokio::test]
async fn check_says_what_a_topology_would_change_for_a_gateway_that_runs() -> Result<()> {
    let cluster = Cluster::start(Options { workers: 2, ..Options::default() }).await?;
    let (first, second) = (&*cluster.workers[0].address, &*cluster.workers[1].address);
    let url = format!("http://{}", cluster.gateway.admin);
    for (generation, workers, code, part) in [
        (1, &[first, second][..], 0, "the same: nothing changes"),
        (2, &[first, second, "127.0.0.1:1"], 0, "added: 127.0.0.1:1\nmoved: about 6"),
        (1, &[first], 1, "REFUSED: generation 1 is in force with another content"),
        (0, &[first, second], 1, "REFUSED: generation 0 is lower than 1"),
        (2, &[second], 1, "moves from index 1 to 0"),
        (2, &[], 0, "moved: about 100.0%"),
    ] {
        let file = File::new(generation, workers)?;
        let source = file.source();
        let ended = run(&["topology", "check", "--topology", &source, "--gateway", &url]).await?;
        assert_eq!((ended.code, ended.err.as_str()), (code, ""), "{generation} {workers:?}");
        assert!(ended.out.contains(part), "{part} in {}", ended.out);
    }
    Ok(())
}

#[tokio::test]
async fn check_refuses_what_is_no_topology_and_says_when_there_is_no_gateway() -> Result<()> {
    let file = File::new(1, &["127.0.0.1:1"])?;
    let check = ["topology", "check", "--topology", &file.source()];
    let ended = run(&check).await?;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.out, "valid: generation 1, placement modulo, 1 worker\n");
    // Nobody listens on port 1.
    let ended = run(&[&check[..], &["--gateway", "http://127.0.0.1:1"]].concat()).await?;
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    assert!(
        ended.err.starts_with("--gateway http://127.0.0.1:1: it cannot be reached"),
        "{ended:?}"
    );
    file.write("[]")?;
    let ended = run(&check).await?;
    assert!(ended.code == 1 && ended.err.contains("invalid length 0"), "{ended:?}");
    let ended = run(&["topology", "check", "--gateway", "gateway:9000"]).await?;
    assert!(ended.code == 64 && ended.err.contains("--gateway"), "{ended:?}");
    assert!(ended.err.contains("--workers: name at least one"), "{ended:?}");
    Ok(())
}

#[tokio::test]
async fn a_file_that_changes_gives_a_running_gateway_its_new_workers_and_none_too_many()
-> Result<()> {
    let cluster = Cluster::start(Options { workers: 2, ..Options::default() }).await?;
    let (first, second) = (&*cluster.workers[0].address, &*cluster.workers[1].address);
    let file = File::new(2, &[first])?;
    let gateway = gateway(&file).await?;
    for (generation, workers) in [(3, &[first, second][..]), (4, &[first])] {
        file.publish(generation, workers)?;
        wait_for_status(&gateway, |status| {
            let states = status["workers"].as_array().into_iter().flatten();
            let states: Vec<_> = states.map(|worker| worker["state"].clone()).collect();
            status["generation"] == generation && states == vec![json!("up"); workers.len()]
        })
        .await?;
    }
    Ok(())
}

async fn wait_for_status(gateway: &Node, condition: impl Fn(&Value) -> bool) -> Result<()> {
    let look = async {
        while !condition(&gateway.status().await?) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, look).await.context("its status stays as it was")?
}
