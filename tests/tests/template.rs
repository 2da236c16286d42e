//! `gateway new`: what it writes builds and passes its test, and what it refuses it refuses in one
//! sentence each.

use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use single_state_tests::process::program;
use tempfile::TempDir;
use tokio::process::Command;

/// This repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

async fn gateway_new(folder: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(program("gateway"));
    let output = command.arg("new").args(arguments).current_dir(folder).kill_on_drop(true).output();
    Ok(output.await?)
}

/// What it said that it cannot do, a line each; the last line names the help.
async fn refusal(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = gateway_new(folder, arguments).await?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(64), "{arguments:?} ends with {}: {said}", output.status);
    let lines: Vec<_> = said.lines().filter(|line| !line.contains("--help")).collect();
    Ok(lines.join("\n"))
}

/// What cargo is asked for in the new app. It finds there what this workspace was built from, and
/// builds into the same folder, so that only what differs is built.
async fn cargo(app: &Path, arguments: &[&str]) -> Result<()> {
    let target = program("gateway");
    let target = target.parent().and_then(Path::parent).context("a target folder")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).arg("--offline").current_dir(app).env("CARGO_TARGET_DIR", target);
    // What the cargo that runs this test says of this test's own crate: build scripts that look at
    // it would be run again, and all that stands on them built again, each time.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    let output = command.kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo {arguments:?}: {said}");
    Ok(())
}

#[tokio::test]
async fn a_new_app_builds_and_passes_its_own_test() -> Result<()> {
    let folder = TempDir::with_prefix("single-state-new-")?;
    // The name is this test's alone: the program would replace that of another app.
    let output = gateway_new(folder.path(), &["single-state-new-app", "--path", ROOT]).await?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("-- target/debug/single-state-new-app"), "{said}");
    let app = folder.path().join("single-state-new-app");
    std::fs::copy(Path::new(ROOT).join("Cargo.lock"), app.join("Cargo.lock"))?;
    // That builds the program, too.
    cargo(&app, &["test"]).await?;
    let formatted =
        Command::new("cargo").args(["fmt", "--check"]).current_dir(&app).output().await?;
    let differs = String::from_utf8_lossy(&formatted.stdout);
    ensure!(formatted.status.success(), "the template is not formatted: {differs}");
    Ok(())
}

#[tokio::test]
async fn a_new_app_may_take_the_library_from_a_repository() -> Result<()> {
    let folder = TempDir::with_prefix("single-state-new-")?;
    let url = "https://example.org/single-state";
    let output = gateway_new(folder.path(), &["my_app", "--git", url]).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let manifest = std::fs::read_to_string(folder.path().join("my_app/Cargo.toml"))?;
    let dependency = format!("single-state-worker = {{ git = \"{url}\" }}");
    ensure!(manifest.contains(&dependency), "{manifest}");
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_is_said_at_once_and_nothing_is_written() -> Result<()> {
    let folder = TempDir::with_prefix("single-state-new-")?;
    let path = folder.path();
    for (name, words) in [
        ("1st", "a letter first"),
        ("../up", "a letter first"),
        ("a b", "a letter first"),
        ("fn", "Rust, or a crate"),
        ("single-state-worker", "Rust, or a crate"),
    ] {
        let said = refusal(path, &[name, "--path", ROOT]).await?;
        ensure!(said.contains(words) && said.lines().count() == 1, "{name}: {said}");
    }
    let said = refusal(path, &["fn", "--git", "nowhere"]).await?;
    ensure!(said.contains("NAME \"fn\"") && said.contains("--git \"nowhere\""), "{said}");
    let said = refusal(path, &["--path", "no/such/folder"]).await?;
    ensure!(said.contains("give the app a name") && said.contains("no single-state"), "{said}");
    ensure!(path.read_dir()?.next().is_none(), "something was written");

    std::fs::create_dir_all(path.join("full/of"))?;
    let said = refusal(path, &["full", "--path", ROOT]).await?;
    ensure!(said.contains("not an empty folder") && said.lines().count() == 1, "{said}");
    ensure!(!path.join("full/Cargo.toml").exists());
    std::fs::create_dir(path.join("empty"))?;
    let output = gateway_new(path, &["empty", "--path", ROOT]).await?;
    ensure!(output.status.success(), "an empty folder is as good as none");
    Ok(())
}
