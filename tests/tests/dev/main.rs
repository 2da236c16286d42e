//! `gateway dev` as its user meets it: one line to click on, workers that come back, nothing left
//! behind.

mod asked;
mod kept;
mod serves;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use single_state_tests::browser::Browser;
use single_state_tests::cluster::http_get;
use single_state_tests::dev::{Dev, Project, addresses_in, is_running, wait_for, wait_until_gone};
use single_state_tests::process::program;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

/// A worker's child has this long from SIGTERM to SIGKILL in `gateway dev`.
const GRACE: Duration = Duration::from_secs(10);

// The output.

#[tokio::test]
async fn stdout_is_one_line_with_the_addresses() -> Result<()> {
    let project = Project::new().await?;
    let mut command = project.gateway(&["dev", "--listen", "127.0.0.1:0", "--", "bin/worker"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();

    let line = lines.next_line().await?.context("a line")?;
    let (address, admin) = addresses_in(&line).with_context(|| format!("addresses in {line}"))?;
    assert_eq!(http_get(&address, "/").await?.0, 200);
    assert_eq!(http_get(&admin, "/livez").await?.0, 200);
    let (status, page) = http_get(&admin, "/").await?;
    assert!(status == 200 && page.contains("<title>"), "a page for people: {page}");
    let mut browser = Browser::connect(&format!("ws://{address}/ws")).await?;
    browser.ask(json!({"tag": "broken"})).await?;
    browser.close().await?;

    let id = child.id().context("it runs")?.to_string();
    std::process::Command::new("kill").args(["-s", "INT", &id]).status()?;
    assert_eq!(lines.next_line().await?, None, "nothing follows, whatever happens");
    assert!(child.wait().await?.success());
    Ok(())
}

#[tokio::test]
async fn lines_of_workers_are_on_stderr_and_say_whose_they_are() -> Result<()> {
    let project = Project::new().await?;
    let dev = project.dev(&["--workers", "2", "--log-format", "json"]).await?;
    assert_eq!(dev.worker_processes().len(), 2);
    dev.kill_worker(1)?;
    let ended = "dev | worker 1 ended by signal 9, starting it again at once";
    dev.gateway.process.wait_for_line(|line| (line == ended).then_some(())).await?;
    let dev = project.dev(&["--workers", "1", "--log", "info"]).await?;
    let listens = |line: &str| {
        (line.starts_with("worker 0 | ") && line.contains("worker listens")).then_some(())
    };
    dev.gateway.process.wait_for_line(listens).await
}

#[tokio::test]
async fn a_panic_is_told_with_its_place_the_apps_own_frames_and_its_session() -> Result<()> {
    let project = Project::with_worker(&program("fixture")).await?;
    let mut command =
        project.gateway(&["dev", "--listen", "127.0.0.1:0", "--workers", "1", "--", "bin/worker"]);
    command.env("RUST_BACKTRACE", "1");
    let dev = Project::start(command).await?;
    let mut browser = Browser::connect(&dev.socket("?session=anna")).await?;
    browser.send(json!({"tag": "panic"})).await?;
    let told = dev.gateway.process.wait_for_line(|line| {
        let is_it = line.contains("handler panicked") && line.contains("anna");
        is_it.then(|| line.to_owned())
    });
    told.await?;

    let output = dev.gateway.process.output();
    let lines = output.lines().filter_map(|line| line.strip_prefix("worker 0 | "));
    let mut lines = lines.skip_while(|line| !line.starts_with("the app panicked at "));
    let place = lines.next().unwrap_or_default();
    assert!(place.contains("fixture/main.rs:"), "{output}");
    let frames: Vec<_> = lines.take_while(|line| line.starts_with("    at ")).collect();
    assert!(matches!(frames[..], [frame] if frame.contains("fixture/main.rs:")), "{output}");
    assert!(output.contains("RUST_BACKTRACE=full") && !output.contains("tokio"), "{output}");
    Ok(())
}

// The end.

#[tokio::test]
async fn ctrl_c_closes_browsers_and_leaves_no_process() -> Result<()> {
    ends_cleanly_on("INT").await
}

#[tokio::test]
async fn sigterm_closes_browsers_and_leaves_no_process() -> Result<()> {
    ends_cleanly_on("TERM").await
}

async fn ends_cleanly_on(signal: &str) -> Result<()> {
    let project = Project::new().await?;
    let mut dev = project.dev(&[]).await?;
    let mut browser = Browser::connect(&dev.socket("")).await?;
    let workers = dev.worker_processes();
    assert!(workers.len() == 3 && workers.iter().all(|worker| is_running(*worker)), "{workers:?}");
    dev.gateway.process.signal(signal)?;
    assert_eq!(browser.closed().await?, 1012, "come back later");
    drop(browser);
    assert_eq!(dev.gateway.process.wait().await?.code(), Some(0));
    // Not "soon": whoever starts it again at once must find the ports free.
    assert!(!workers.iter().any(|worker| is_running(*worker)), "of {workers:?} some are left");
    Ok(())
}

#[tokio::test]
async fn the_second_ctrl_c_does_not_wait_for_a_stubborn_worker() -> Result<()> {
    let project = Project::new().await?;
    // A shell that ignores SIGTERM, with the worker as its child.
    let stubborn = "trap '' TERM; bin/worker; while :; do sleep 1; done";
    let mut dev = project.dev_of(&["--workers", "1"], &["--", "sh", "-c", stubborn]).await?;
    let workers = dev.worker_processes();
    dev.gateway.process.signal("INT")?;
    wait_for(async || {
        ensure!(TcpStream::connect(&dev.gateway.address).await.is_err(), "it still listens");
        Ok(())
    })
    .await?;
    assert!(is_running(workers[0]), "it ignores the first one");
    let second = Instant::now();
    dev.gateway.process.signal("INT")?;
    dev.gateway.process.wait().await?;
    assert!(second.elapsed() < GRACE, "{:?}", second.elapsed());
    assert!(!workers.iter().any(|worker| is_running(*worker)), "of {workers:?} some are left");
    Ok(())
}

#[tokio::test]
async fn workers_leave_when_gateway_dev_is_killed() -> Result<()> {
    let project = Project::new().await?;
    let mut dev = project.dev(&[]).await?;
    let workers = dev.worker_processes();
    assert_eq!(workers.len(), 3);
    dev.gateway.process.kill().await?;
    wait_until_gone(&workers).await
}

// Restarts.

#[tokio::test]
async fn a_killed_worker_comes_back_and_its_browsers_never_notice() -> Result<()> {
    let project = Project::new().await?;
    let dev = project.dev(&["--workers", "2"]).await?;
    let mut browser = Browser::connect(&dev.socket("?session=a")).await?;
    let owner: u64 = browser.header("x-single-state-worker").context("who owns it")?.parse()?;
    let mut asked = 0.0;
    let mut question = || {
        asked += 1.0;
        let answer = json!([asked]);
        (json!({"tag": "axpy", "a": 1, "x": [asked], "y": [0]}), answer)
    };
    let (message, answer) = question();
    browser.send(message).await?;
    browser.wait_for("result_vector", &answer).await?;

    // The first time it is started again at once.
    let before = dev.worker_process(owner)?;
    dev.kill_worker(owner)?;
    let (message, answer) = question();
    browser.send(message).await?;
    browser.wait_for("result_vector", &answer).await?;
    wait_for(async || {
        ensure!(dev.worker_process(owner)? != before, "it is still the process of before");
        Ok(())
    })
    .await?;

    // The second time after half a second, so that the message surely comes while it is away.
    dev.kill_worker(owner)?;
    let is_away = |status: &Value| status["workers"][owner as usize]["state"] != "up";
    dev.wait_for_status(is_away).await?;
    let (message, answer) = question();
    browser.send(message).await?;
    browser.wait_for("result_vector", &answer).await
}

#[tokio::test]
async fn a_replaced_program_restarts_all_workers_and_closes_no_socket() -> Result<()> {
    let project = Project::new().await?;
    let dev = project.dev(&[]).await?;
    let mut browsers = browsers_of_all_workers(&dev).await?;
    let before = dev.incarnations().await?;

    project.install(&program("worker")).await?;
    dev.wait_until_rolled(&before).await?;
    serve(&mut browsers).await?;
    let after = dev.incarnations().await?;

    // The watch is not used up.
    project.install(&program("worker")).await?;
    dev.wait_until_rolled(&after).await?;
    serve(&mut browsers).await
}

#[tokio::test]
async fn a_changed_source_is_built_and_a_failing_build_leaves_the_workers_as_they_are() -> Result<()>
{
    let project = Project::new().await?;
    project.write("src/app.txt", "one")?;
    let worker = program("worker");
    let build = "if grep broken src/app.txt; then exit 3; fi\n\
                 cp $1 bin/.built && mv bin/.built bin/worker && cat src/app.txt >> .builds\n";
    project.write("build.sh", build)?;
    let build = format!("sh build.sh '{}'", worker.display());
    let dev = project.dev(&["--build", &build]).await?;
    let mut browsers = browsers_of_all_workers(&dev).await?;
    assert_eq!(std::fs::read_to_string(project.path(".builds"))?, "one", "once at the start");

    let before = dev.incarnations().await?;
    project.write("src/app.txt", "two")?;
    dev.wait_until_rolled(&before).await?;
    serve(&mut browsers).await?;

    let before = dev.incarnations().await?;
    project.write("src/app.txt", "broken")?;
    let said = |line: &str| line.strip_prefix("dev | the build ended ").map(str::to_owned);
    let failed = dev.gateway.process.wait_for_line(said).await?;
    assert_eq!(failed, "with exit code 3; the workers go on as they are");
    assert!(dev.gateway.process.output().contains("build | broken\n"), "its output is shown");
    serve(&mut browsers).await?;
    assert_eq!(dev.incarnations().await?, before, "the same processes as before");

    project.write("src/app.txt", "three")?;
    dev.wait_until_rolled(&before).await?;
    serve(&mut browsers).await?;
    assert_eq!(std::fs::read_to_string(project.path(".builds"))?, "onetwothree");
    Ok(())
}

#[tokio::test]
async fn during_the_first_build_nobody_is_missed_and_pages_wait_for_its_end() -> Result<()> {
    let project = Project::new().await?;
    // The build ends when the test says so.
    let build = "while ! test -e .go; do sleep 0.01; done";
    let dev = ["dev", "--listen", "127.0.0.1:0", "--build", build, "--", "bin/worker"];
    let dev = Project::begin(project.gateway(&dev)).await?;
    let says = "dev | building; the workers are started when that is done";
    dev.gateway.process.wait_for_line(|line| (line == says).then_some(())).await?;
    assert_eq!(dev.gateway.status().await?["workers"], json!([]), "nobody is dialled");
    let mut browser = Browser::connect(&dev.socket("")).await?;
    browser.send(json!({"tag": "append", "item": "early"})).await?;

    let output = dev.gateway.process.output();
    assert!(!output.contains("not reached"), "{output}");
    project.write(".go", "")?;
    browser.wait_for("count", &json!(1)).await?;
    dev.wait_until_up().await?;
    let output = dev.stop().await?;
    assert_eq!(output.lines().filter(|line| *line == says).count(), 1, "{output}");
    Ok(())
}

/// One browser for each worker, so that no worker's restart goes unnoticed.
async fn browsers_of_all_workers(dev: &Dev) -> Result<Vec<Browser>> {
    let (mut owners, mut browsers) = (BTreeSet::new(), Vec::new());
    let workers = dev.incarnations().await?.len();
    for i in 0.. {
        let browser = Browser::connect(&dev.socket(&format!("?session=s{i}"))).await?;
        let owner = browser.header("x-single-state-worker").context("who owns it")?.to_owned();
        if owners.insert(owner) {
            browsers.push(browser);
        }
        if owners.len() == workers {
            break;
        }
    }
    serve(&mut browsers).await?;
    Ok(browsers)
}

/// Each browser asks something and gets its answer over the socket that it has had all along.
async fn serve(browsers: &mut [Browser]) -> Result<()> {
    for browser in browsers {
        browser.send(json!({"tag": "items"})).await?;
        browser.receive_where(|message| message["tag"] == "items").await?;
    }
    Ok(())
}

// What cannot work.

#[tokio::test]
async fn a_worker_command_that_does_not_exist_is_one_clear_sentence() -> Result<()> {
    let project = Project::new().await?;
    for missing in ["no-such-worker", "target/debug/no-such-worker"] {
        let dev = ["dev", "--listen", "127.0.0.1:0", "--", missing];
        let (code, stdout, stderr) = project.run(&dev).await?;
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        let sentence = format!("the worker command `{missing}` was not found");
        assert!(stderr.contains(&sentence) && stderr.lines().count() == 1, "{stderr}");
    }
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_taken_is_one_clear_sentence() -> Result<()> {
    let project = Project::new().await?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let dev = ["dev", "--listen", &address, "--", "bin/worker"];
    let (code, stdout, stderr) = project.run(&dev).await?;
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    let sentence = format!("cannot listen on {address}");
    assert!(stderr.contains(&sentence) && stderr.lines().count() == 1, "{stderr}");
    Ok(())
}

#[tokio::test]
async fn all_mistakes_in_the_flags_of_dev_are_told_at_once() -> Result<()> {
    all_mistakes_are_told(
        "dev --listen 8000 --admin-listen nowhere --workers 0 --store redis://:xyz@host \
         --web no/such/folder --placement-key xyz --max-message-bytes 99999999 --park-timeout soon \
         --log-format xml --wat",
    )
    .await
}

#[tokio::test]
async fn all_mistakes_in_the_flags_of_run_are_told_at_once() -> Result<()> {
    all_mistakes_are_told(
        "run --listen 8000 --admin-listen nowhere --workers a --placement ring --generation x \
         --web no/such/folder --placement-key xyz --max-frame-bytes 99999999 --log-format xml --wat",
    )
    .await
}

async fn all_mistakes_are_told(command: &str) -> Result<()> {
    let project = Project::new().await?;
    let arguments: Vec<_> = command.split_whitespace().collect();
    let (code, stdout, stderr) = project.run(&arguments).await?;
    assert_eq!((code, stdout.as_str()), (Some(64), ""), "{stderr}");
    for flag in arguments.iter().filter(|argument| argument.starts_with("--")) {
        let told = stderr.lines().filter(|line| words(line).any(|word| word == *flag));
        assert_eq!(told.count(), 1, "{flag} in:\n{stderr}");
    }
    assert!(!stderr.contains("xyz"), "a secret is not repeated:\n{stderr}");
    Ok(())
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace().map(|word| word.trim_matches([':', ';', '\'']))
}

#[tokio::test]
async fn an_example_app_runs_in_it() -> Result<()> {
    let project = Project::with_worker(&program("examples/counter")).await?;
    let dev = project.dev(&["--workers", "2"]).await?;
    let mut tab = Browser::connect(&dev.socket("?session=a")).await?;
    let mut other = Browser::connect(&dev.socket("?session=a")).await?;
    tab.send(json!({"tag": "add", "n": 2})).await?;
    other.send(json!({"tag": "add", "n": 3})).await?;
    tab.wait_for("count", &json!(5)).await?;
    other.wait_for("count", &json!(5)).await
}
