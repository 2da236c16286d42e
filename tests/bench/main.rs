//! `bench`: the gateway with two workers beside one tokio-tungstenite process with the same app, and
//! beside HAProxy that hashes to two such processes. Everything runs pinned to one CPU; what counts
//! is CPU time of the server processes for each round trip, which holds on noisy machines. Ours run
//! with what they ship with: signed ids, sessions in a file of SQLite, metrics, limits.
//!
//! Prints the command lines that it runs, then the figures as a table for the README.

#![expect(clippy::print_stdout, reason = "the table is the command's result")]

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use single_state_tests::process::{Process, program};

/// Runs of each measurement; the median counts.
const RUNS: usize = 3;
const DURATION: &str = "3s";

/// A folder for temporary files that is on a disk; `/tmp` may be in memory.
const DISK: &str = "/var/tmp";

/// What is measured: browsers, bytes of a message, workload.
const LOADS: [(u32, u32, &str); 6] = [
    (1, 64, "axpy"),
    (64, 64, "axpy"),
    (1000, 64, "axpy"),
    (64, 64, "append"),
    (1000, 64, "append"),
    (64, 16 * 1024, "axpy"),
];

/// Servers that answer at one address.
struct Contender {
    name: &'static str,
    url: String,
    processes: Vec<(&'static str, Process)>,
}

/// What one contender showed under one load.
#[derive(Clone, Copy, Default)]
struct Figure {
    cpu_us: f64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    client_us: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let folder = tempfile::TempDir::with_prefix_in("single-state-bench-", DISK)?;
    let contenders =
        [single_process().await?, haproxy(folder.path()).await?, ours(folder.path()).await?];
    println!(
        "\n| load | servers | CPU µs a round trip | beside one process | round trips/s | p50 µs | p99 µs | client µs |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (browsers, bytes, workload) in LOADS {
        let mut base = None;
        for contender in &contenders {
            let figure = median(contender, browsers, bytes, workload).await?;
            let base = *base.get_or_insert(figure.cpu_us);
            println!(
                "| {browsers} × {bytes} B {workload} | {} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} | {:.1} |",
                contender.name,
                figure.cpu_us,
                figure.cpu_us / base,
                figure.per_second,
                figure.p50_us,
                figure.p99_us,
                figure.client_us
            );
        }
    }
    drop(contenders);
    idle(folder.path()).await
}

/// A command on CPU 0, said aloud.
fn pinned(program: &Path, args: &[&str]) -> tokio::process::Command {
    println!(
        "taskset -c 0 {} {}",
        program.file_name().unwrap_or_default().to_string_lossy(),
        args.join(" ")
    );
    let mut command = tokio::process::Command::new("taskset");
    command.args(["-c", "0"]).arg(program).args(args);
    command
}

async fn listening(
    name: &str,
    command: tokio::process::Command,
    message: &str,
) -> Result<(Process, String)> {
    let process = Process::spawn(name, command)?;
    let line = process.wait_for_message(message).await?;
    let address = line["listen"].as_str().context("no address")?.to_owned();
    Ok((process, address))
}

async fn single_process() -> Result<Contender> {
    let command = pinned(&program("baseline"), &["127.0.0.1:0"]);
    let (process, address) = listening("baseline", command, "baseline listens").await?;
    let url = format!("ws://{address}/ws");
    Ok(Contender { name: "one process", url, processes: vec![("server", process)] })
}

async fn haproxy(folder: &Path) -> Result<Contender> {
    let mut processes = Vec::new();
    let mut servers = String::new();
    for name in ["server-0", "server-1"] {
        let command = pinned(&program("baseline"), &["127.0.0.1:0"]);
        let (process, address) = listening(name, command, "baseline listens").await?;
        servers.push_str(&format!("  server {name} {address}\n"));
        processes.push((name, process));
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let config = format!(
        "global\n  maxconn 4000\n  nbthread 1\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
         timeout tunnel 1h\n\
         listen web\n  bind 127.0.0.1:{port}\n  balance url_param session\n  hash-type consistent\n{servers}"
    );
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, config)?;
    let file = file.to_string_lossy().into_owned();
    let command = pinned(Path::new("haproxy"), &["-db", "-f", &file]);
    let process = Process::spawn("haproxy", command)?;
    wait_for_port(port).await?;
    processes.push(("haproxy", process));
    // It pins by the same part of the request as we do, so each browser has a session of its own.
    let url = format!("ws://127.0.0.1:{port}/ws?session=bench-{{n}}");
    Ok(Contender { name: "HAProxy + two", url, processes })
}

async fn wait_for_port(port: u16) -> Result<()> {
    let began = std::time::Instant::now();
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if began.elapsed() > single_state_tests::DEADLINE {
            bail!("nothing listens on port {port}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Shipped defaults: signed ids, SQLite in the mode `relaxed`, metrics, limits; only the two rates of
/// one browser are off.
async fn ours(folder: &Path) -> Result<Contender> {
    let mut processes = Vec::new();
    let mut addresses = Vec::new();
    let store = format!("sqlite:{}", folder.join("sessions.sqlite").display());
    for (index, name) in ["worker-0", "worker-1"].into_iter().enumerate() {
        let index = index.to_string();
        let args = [
            "--index",
            &index,
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--store",
            &store,
            "--log-format",
            "json",
        ];
        let command = pinned(&program("worker"), &args);
        let (process, address) = listening(name, command, "worker listens").await?;
        addresses.push(address);
        processes.push((name, process));
    }
    let keys = folder.join("session-keys");
    std::fs::write(&keys, "5".repeat(64))?;
    let (keys, workers) = (keys.to_string_lossy().into_owned(), addresses.join(","));
    let args = [
        "run",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
        "--workers",
        &workers,
        "--session-keys-file",
        &keys,
        "--max-messages-per-second",
        "0",
        "--max-bytes-per-second",
        "0",
    ];
    let command = pinned(&program("gateway"), &args);
    let (process, address) = listening("gateway", command, "gateway listens").await?;
    processes.push(("gateway", process));
    Ok(Contender { name: "gateway + two workers", url: format!("ws://{address}/ws"), processes })
}

async fn median(
    contender: &Contender,
    browsers: u32,
    bytes: u32,
    workload: &str,
) -> Result<Figure> {
    let mut figures = Vec::new();
    for _ in 0..RUNS {
        figures.push(measure(contender, browsers, bytes, workload).await?);
    }
    figures.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
    Ok(figures[RUNS / 2])
}

async fn measure(
    contender: &Contender,
    browsers: u32,
    bytes: u32,
    workload: &str,
) -> Result<Figure> {
    let (browsers, bytes) = (browsers.to_string(), bytes.to_string());
    let args = [
        "--browsers",
        &browsers,
        "--bytes",
        &bytes,
        "--workload",
        workload,
        "--unchecked",
        "--duration",
        DURATION,
    ];
    let report = swarm(contender, &args).await?;
    let cpu = |of_swarm: bool| {
        let processes = report["processes"].as_array().into_iter().flatten();
        let wanted = processes.filter(|process| (process["name"] == "swarm") == of_swarm);
        wanted.filter_map(|process| process["cpu_us_per_round_trip"].as_f64()).sum::<f64>()
    };
    let number = |name: &str| report[name].as_f64().unwrap_or_default();
    Ok(Figure {
        cpu_us: cpu(false),
        per_second: number("round_trips_per_second"),
        p50_us: number("p50_us"),
        p99_us: number("p99_us"),
        client_us: cpu(true),
    })
}

/// Runs the load generator against a contender; its report.
async fn swarm(contender: &Contender, args: &[&str]) -> Result<Value> {
    let mut command = tokio::process::Command::new("taskset");
    command.args(["-c", "0"]).arg(program("swarm")).args(["--url", &contender.url, "--json", "-"]);
    for (name, process) in &contender.processes {
        let pid = process.id().context("a server has ended")?;
        command.args(["--pid", &format!("{name}={pid}")]);
    }
    let output = command.args(args).output().await?;
    if !output.status.success() {
        bail!(
            "swarm: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Memory of idle browsers, with fresh servers.
async fn idle(folder: &Path) -> Result<()> {
    const BROWSERS: &str = "5000";
    let contenders = [single_process().await?, ours(folder).await?];
    println!("\n| {BROWSERS} idle browsers | process | KiB a browser |");
    println!("|---|---|---|");
    for contender in &contenders {
        let report =
            swarm(contender, &["--browsers", BROWSERS, "--idle", "--duration", "1s"]).await?;
        for process in report["processes"].as_array().into_iter().flatten() {
            let kib = process["bytes_per_browser"].as_f64().unwrap_or_default() / 1024.0;
            if process["name"] != "swarm" {
                println!(
                    "| {} | {} | {kib:.2} |",
                    contender.name,
                    process["name"].as_str().unwrap_or_default()
                );
            }
        }
    }
    println!(
        "\nA worker holds half of the browsers: its share of each is twice what stands there."
    );
    Ok(())
}
