//! The load generator: what each of its modes does, what it reports, and what it says when it cannot.

use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use single_state_tests::DEADLINE;
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::place::Place;
use single_state_tests::process::program;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

async fn cluster() -> Result<Cluster> {
    Cluster::start(Options { workers: 1, ..Options::default() }).await
}

/// Runs it to its end, which must come.
async fn swarm(url: &str, flags: &[&str]) -> Result<Output> {
    let mut command = Command::new(program("swarm"));
    command.args(["--url", url]).args(flags).stdin(Stdio::null()).kill_on_drop(true);
    Ok(timeout(DEADLINE, command.output()).await.context("it hangs")??)
}

/// A short run's report.
async fn report(url: &str, flags: &[&str]) -> Result<(Value, Option<i32>)> {
    let short = if flags.contains(&"--duration") { &[][..] } else { &["--duration", "1s"] };
    let always = ["--warm-up", "100ms", "--json", "-"];
    let output = swarm(url, &[&always, short, flags].concat()).await?;
    let report = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((report, output.status.code()))
}

/// … which must be clean.
async fn clean_report(url: &str, flags: &[&str]) -> Result<Value> {
    let (report, code) = report(url, flags).await?;
    ensure!(code == Some(0), "{code:?}: {report}");
    Ok(report)
}

/// What it says when it cannot run: the exit code, and all its sentences.
async fn refusal(url: &str, flags: &[&str]) -> Result<(Option<i32>, String)> {
    let output = swarm(url, flags).await?;
    Ok((output.status.code(), String::from_utf8(output.stderr)?))
}

fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}"))
}

// --- modes --------------------------------------------------------------------------------------

#[tokio::test]
async fn plain_and_v1_browsers_are_mixed_and_all_figures_are_there() -> Result<()> {
    let cluster = cluster().await?;
    let pid = format!("gateway={}", cluster.gateway.process.id().context("it runs")?);
    let flags = ["--browsers", "8", "--v1-share", "0.25", "--pid", &pid];
    let report = clean_report(&cluster.url("?session=s{n}"), &flags).await?;
    assert_eq!(number(&report, "connected"), 8);
    assert!(number(&report, "round_trips") > 0 && number(&report, "p50_us") > 0, "{report}");
    assert!(number(&report, "p99_us") >= number(&report, "p50_us"), "{report}");
    for name in ["errors", "closed", "lost", "doubled"] {
        assert_eq!(number(&report, name), 0, "{report}");
    }
    let names: Vec<_> = report["processes"].as_array().into_iter().flatten().collect();
    assert_eq!(names.iter().map(|one| &one["name"]).collect::<Vec<_>>(), ["gateway", "swarm"]);
    let plain = cluster.gateway.metric("single_state_messages_in_total").await?;
    assert!(plain > 0.0);
    Ok(())
}

#[tokio::test]
async fn an_open_loop_keeps_its_rate_and_counts_answers_that_are_late() -> Result<()> {
    let cluster = cluster().await?;
    let report = clean_report(&cluster.url(""), &["--browsers", "5", "--rate", "100"]).await?;
    // Its processes are told when to begin and when to end, and may hear it late.
    assert!(number(&report, "round_trips").abs_diff(100) <= 25, "{report}");
    // Nobody answers: each message that was due is late by as long as it was waited for.
    let late = Server::start(Then::Silence).await?;
    let flags = ["--browsers", "5", "--rate", "100"];
    let (report, code) = self::report(&late.url, &flags).await?;
    assert_eq!((code, number(&report, "round_trips")), (Some(1), 0), "{report}");
    assert!(number(&report, "unanswered") > 50, "one for each that was due: {report}");
    assert!(number(&report, "p50_us") > 1_000_000, "{report}");
    Ok(())
}

#[tokio::test]
async fn idle_browsers_exchange_two_messages_and_stay() -> Result<()> {
    let cluster = cluster().await?;
    let flags = ["--browsers", "6", "--idle", "--v1-share", "0.5"];
    let report = clean_report(&cluster.url(""), &flags).await?;
    assert_eq!((number(&report, "connected"), number(&report, "round_trips")), (6, 0));
    // Three of them greet with a hello, and tell what they have taken.
    assert_eq!(cluster.workers[0].metric("single_state_messages_handled_total").await?, 12.0);
    Ok(())
}

#[tokio::test]
async fn churn_comes_back_to_the_same_session_and_finds_all_it_has_sent() -> Result<()> {
    let cluster = cluster().await?;
    let flags = [
        "--churn",
        "--away",
        "10ms",
        "--duration",
        "3s",
        "--browsers",
        "4",
        "--workload",
        "append",
        "--v1-share",
        "0.5",
    ];
    let report = clean_report(&cluster.url(""), &flags).await?;
    assert!(number(&report, "returns") > 4, "{report}");
    assert!(number(&report, "checked") > 3 * number(&report, "returns"), "{report}");
    Ok(())
}

#[tokio::test]
async fn sessions_are_named_and_signed_with_the_gateways_keys() -> Result<()> {
    let keys = tempfile::NamedTempFile::new()?;
    std::fs::write(keys.path(), "a".repeat(64))?;
    let path = keys.path().to_string_lossy().into_owned();
    let cluster =
        Cluster::start(Options { workers: 1, ..Options::default() }.signed(&path)).await?;
    let flags = ["--browsers", "4", "--churn", "--v1-share", "0.5"];
    let signed = [&flags[..], &["--session-keys-file", &path]].concat();
    for query in ["", "?session=s{n}"] {
        let report = clean_report(&cluster.url(query), &signed).await?;
        assert!(number(&report, "returns") > 0, "{report}");
    }
    let (code, said) = refusal(&cluster.url("?session=s{n}"), &["--browsers", "2"]).await?;
    assert_eq!(code, Some(1));
    assert!(said.contains("none of 2 browsers is connected"), "{said}");
    Ok(())
}

// --- many ---------------------------------------------------------------------------------------

#[tokio::test]
async fn several_processes_and_gateways_and_addresses_give_one_report() -> Result<()> {
    let cluster = cluster().await?;
    let other = cluster.another_gateway().await?;
    let second = format!("ws://{}/ws", other.address);
    let folder = tempfile::tempdir()?;
    let history = folder.path().join("history").display().to_string();
    let flags = ["--url", &second, "--browsers", "10", "--browsers-per-process", "4"];
    let more = ["--from", "127.0.0.2-127.0.0.4", "--workload", "append", "--history", &history];
    let more = [&more[..], &["--duration", "3s"]].concat();
    let report = clean_report(&cluster.url(""), &[&flags[..], &more].concat()).await?;
    assert_eq!((number(&report, "swarm_processes"), number(&report, "connected")), (3, 10));
    let handled = cluster.workers[0].metric("single_state_messages_handled_total").await?;
    assert!(number(&report, "checked") as f64 <= handled, "{report}");
    let lines = std::fs::read_to_string(&history)?;
    for browser in 0..10 {
        assert!(lines.contains(&format!("\"page.{browser}.0\"")), "browser {browser} is missing");
    }
    let peak = |seconds: &Value| {
        seconds.as_array()?.iter().filter_map(|second| second["connected"].as_u64()).max()
    };
    assert_eq!(peak(&report["seconds"]), Some(10), "{report}");
    Ok(())
}

#[tokio::test]
async fn a_page_has_the_figures_and_the_faults_and_loads_nothing() -> Result<()> {
    let cluster = cluster().await?;
    let folder = tempfile::tempdir()?;
    let (page, marks) = (folder.path().join("page.html"), folder.path().join("marks"));
    let mark = json!({"at_ms": 900, "what": "worker <0> is killed"});
    std::fs::write(&marks, format!("{mark}\n"))?;
    let (html, mark) = (page.display().to_string(), marks.display().to_string());
    let flags = ["--browsers", "2", "--html", &html, "--mark", &mark];
    let report = clean_report(&cluster.url(""), &flags).await?;
    let page = std::fs::read_to_string(&page)?;
    for part in ["<svg", "<polyline", "<rect", "worker &lt;0&gt; is killed", "round trips/s"] {
        assert!(page.contains(part), "{part} is missing");
    }
    assert!(page.contains(&format!("<td>{}</td>", number(&report, "round_trips"))));
    for external in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"] {
        assert!(!page.contains(external), "{external} is there");
    }
    Ok(())
}

#[tokio::test]
async fn what_clients_can_tell_of_the_invariants_is_judged_in_any_run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = format!("sqlite:{}", folder.path().join("x.sqlite").display());
    let options = Options { workers: 1, ..Options::default() }.store(&store);
    let cluster = Cluster::start(options).await?;
    let flags = ["--browsers", "8", "--v1-share", "0.5", "--workload", "append"];
    let judged = clean_report(&cluster.url(""), &flags).await?;
    for invariant in ["I1", "I2", "I3", "I4", "I6", "I7"] {
        let tested = &judged["invariants"][invariant];
        assert!(number(tested, "tests") > 0 && number(tested, "violations") == 0, "{judged}");
    }
    let text = swarm(&cluster.url(""), &[&flags[..], &["--duration", "100ms"]].concat()).await?;
    assert!(String::from_utf8(text.stdout)?.contains("I2 holds ("));
    Ok(())
}

#[tokio::test]
async fn a_history_in_which_items_are_missing_is_a_loss() -> Result<()> {
    let server = Server::start(Then::ForgetAll).await?;
    let flags = ["--browsers", "2", "--workload", "append"];
    let (report, code) = report(&server.url, &flags).await?;
    // It names no sessions, so all its browsers count as one.
    assert_eq!((code, number(&report, "lost")), (Some(1), 1), "{report}");
    assert_eq!(number(&report["invariants"]["I3"], "violations"), 1, "{report}");
    Ok(())
}

// --- bad input ----------------------------------------------------------------------------------

#[tokio::test]
async fn all_flags_that_are_wrong_are_told_at_once() -> Result<()> {
    let flags = ["--rate", "0", "--idle", "--from", "here", "--v1-share", "2", "--ramp", "soon"];
    let more = ["--browsers-per-process", "100000000", "--session-keys-file", "/nowhere"];
    let (code, said) = refusal("http://127.0.0.1/ws", &[&flags[..], &more].concat()).await?;
    assert_eq!(code, Some(64));
    for part in [
        "--url \"http://127.0.0.1/ws\": give ws://HOST:PORT/ws",
        "--rate, --idle and --churn: choose one",
        "--rate 0",
        "--from \"here\"",
        "--v1-share 2",
        "--ramp \"soon\"",
        "`ulimit -n 100000064`",
        "--session-keys-file /nowhere",
    ] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    Ok(())
}

#[tokio::test]
async fn too_few_ports_are_told_with_what_to_set() -> Result<()> {
    let server = Server::start(Then::Silence).await?;
    let (code, said) =
        refusal(&server.url, &["--browsers", "200000", "--from", "127.0.0.1"]).await?;
    assert_eq!(code, Some(1));
    for part in ["--from 127.0.0.1-127.0.0.", "sysctl -w net.ipv4.ip_local_port_range"] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_refuses_or_closes_at_once_is_told_in_a_sentence() -> Result<()> {
    let place = Place::free()?;
    let free = place.address();
    let closing = Server::start(Then::Close).await?;
    for share in ["0", "1"] {
        let flags = ["--browsers", "3", "--v1-share", share];
        let (code, said) = refusal(&format!("ws://{free}/ws"), &flags).await?;
        assert_eq!(code, Some(1));
        assert!(said.contains(&format!("does a gateway listen on {free}?")), "{said}");
        let (code, said) = refusal(&closing.url, &flags).await?;
        assert_eq!(code, Some(1));
        assert!(said.contains("none of 3 browsers is connected: cannot connect"), "{said}");
    }
    Ok(())
}

// --- a server that is no gateway ----------------------------------------------------------------

/// What a server does with its connections.
#[derive(Clone, Copy)]
enum Then {
    /// It closes them.
    Close,
    /// It upgrades them, and says nothing.
    Silence,
    /// It counts what it is sent, and has nothing of it in the end.
    ForgetAll,
}

struct Server {
    url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(then: Then) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("ws://{}/ws", listener.local_addr()?);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if !matches!(then, Then::Close) {
                    tokio::spawn(serve(stream, then));
                }
            }
        });
        Ok(Self { url, task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: tokio::net::TcpStream, then: Then) -> Result<()> {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;

    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    let mut count = 0;
    while let Some(message) = socket.next().await {
        let Then::ForgetAll = then else { continue };
        let Message::Text(text) = message? else { continue };
        let message: Value = serde_json::from_str(&text)?;
        // Pages know an answer by its beginning, so the tag comes first.
        let text = if message["tag"] == "items" {
            r#"{"tag":"items","items":[]}"#.to_owned()
        } else {
            count += 1;
            format!(r#"{{"tag":"assign","key":"count","value":{count}}}"#)
        };
        socket.send(Message::text(text)).await?;
    }
    Ok(())
}
