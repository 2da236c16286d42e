//! One machine with all of it: `deploy/local.sh` runs, and `deploy/compose.yaml` names what there is.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use single_state_tests::browser::Browser;
use single_state_tests::process::{Process, program};
use tokio::process::Command;

use crate::fits::must_be_known;
use single_state_tests::manifests::{deploy, list, text};

/// The script with all that it has started: told to end, not killed, when it is dropped.
struct Local(Process);

impl Local {
    fn start(folder: &std::path::Path) -> Result<Self> {
        let programs = program("worker");
        let mut command = Command::new(deploy("local.sh"));
        command.arg(folder).env("PORTS", "free");
        command.env("PROGRAMS", programs.parent().context("a folder of programs")?);
        Ok(Self(Process::spawn("local.sh", command)?))
    }

    /// Where a gateway says browsers may come.
    async fn gateway(&self, index: usize) -> Result<String> {
        let prefix = format!("local: gateway {index}: http://");
        let rest = |line: &str| Some(line.strip_prefix(&prefix)?.split(' ').next()?.to_owned());
        self.0.wait_for_line(rest).await
    }

    async fn end(&mut self, signal: &str) -> Result<()> {
        self.0.signal(signal)?;
        let status = self.0.wait().await?;
        ensure!(status.success(), "{status}: {}", self.0.output());
        Ok(())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let Some(id) = self.0.id() else { return };
        // A test has failed; the rest is up to the script.
        let _ = self.0.signal("TERM");
        let began = Instant::now();
        let runs = || std::fs::read_to_string(format!("/proc/{id}/stat"));
        while began.elapsed() < Duration::from_secs(20)
            && runs().is_ok_and(|stat| !stat.contains(") Z "))
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A folder in which the script may keep its data.
fn data_folder() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    // PostgreSQL may run as another user, who has to come through here.
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
    Ok(folder)
}

#[tokio::test]
async fn the_script_starts_all_of_it_serves_a_session_and_ends_with_everything_saved() -> Result<()>
{
    let folder = data_folder()?;
    let mut token = String::new();
    for (round, signal) in [(1, "INT"), (2, "TERM")] {
        let mut local = Local::start(&folder.path().join("data"))?;
        local.0.wait_for_line(|line| line.contains("local: runs").then_some(())).await?;
        let url = format!("ws://{}/ws", local.gateway(round - 1).await?);
        let url = if token.is_empty() { url } else { format!("{url}?session={token}") };
        let mut browser = Browser::connect(&url).await?;
        browser.send(json!({"tag": "append", "item": format!("round {round}")})).await?;
        browser.wait_for("count", &json!(round)).await?;
        if token.is_empty() {
            let cookie = browser.header("set-cookie").context("a cookie")?;
            token = cookie.split([';', '=']).nth(1).context("a token")?.to_owned();
        }
        browser.close().await?;
        local.end(signal).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_script_ends_everything_when_one_of_its_processes_has_ended() -> Result<()> {
    let folder = data_folder()?;
    let mut local = Local::start(&folder.path().join("data"))?;
    local.0.wait_for_line(|line| line.contains("local: runs").then_some(())).await?;
    let gateway = local.gateway(0).await?;
    let id = local.0.id().context("it runs")?;
    let started = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    let is_worker = |id: &&str| {
        let line = std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.contains("worker\0--index\x001\0")
    };
    let worker = started.split_whitespace().find(is_worker).context("it has a worker 1")?;
    let worker = Pid::from_raw(worker.parse()?).context("a number of a process")?;
    kill_process(worker, Signal::KILL)?;
    let status = local.0.wait().await?;
    let said = local.0.output();
    ensure!(status.code() == Some(1) && said.contains("a process has ended by itself"), "{said}");
    assert!(Browser::connect(&format!("ws://{gateway}/ws")).await.is_err(), "nobody is left");
    Ok(())
}

#[test]
fn compose_names_flags_files_and_services_that_there_are() -> Result<()> {
    let compose: Value = serde_saphyr::from_str(&text("compose.yaml")?)?;
    let services = compose["services"].as_object().context("services")?;
    let of = |prefix: &str| services.keys().filter(|name| name.starts_with(prefix)).count();
    ensure!((of("gateway-"), of("worker-")) == (2, 3), "{:?}", services.keys());
    for (name, service) in services {
        let words = list(&service["command"]);
        if let Some((command, args)) = words.split_first() {
            let variables = service["environment"].as_object().context("variables")?.keys();
            let variables: Vec<_> = variables.map(String::as_str).collect();
            must_be_known(name, command, args, &variables)?;
        }
        for file in list(&service["volumes"]).iter().filter_map(Value::as_str) {
            let file = file.split(':').next().unwrap_or_default();
            ensure!(!file.starts_with('.') || deploy(file).exists(), "{name}: there is no {file}");
        }
        for config in list(&service["configs"]) {
            let source = config["source"].as_str().context("a source")?;
            ensure!(compose["configs"].get(source).is_some(), "{name}: there is no {source}");
        }
    }
    let args = list(&services["gateway-0"]["command"]).iter().filter_map(Value::as_str);
    let workers =
        args.filter_map(|arg| arg.strip_prefix("--workers=")).next().context("workers")?;
    let targets = ["gateway-targets", "worker-targets"]
        .map(|config| compose["configs"][config]["content"].as_str().unwrap_or_default());
    for address in workers.split(',').chain(targets.iter().flat_map(|text| text.split('"'))) {
        let Some((service, port)) = address.split_once(':').filter(|(_, port)| port.len() == 4)
        else {
            continue;
        };
        let service = services.get(service).with_context(|| format!("no service {service}"))?;
        let listens = format!("listen=0.0.0.0:{port}");
        let words = list(&service["command"]).iter().filter_map(Value::as_str);
        ensure!(words.into_iter().any(|word| word.ends_with(&listens)), "{address} is not there");
    }
    Ok(())
}
