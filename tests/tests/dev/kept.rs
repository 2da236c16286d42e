//! Where `gateway dev` keeps sessions, and what its workers are told of that.

use anyhow::{Context, Result};
use serde_json::json;
use single_state_tests::browser::Browser;
use single_state_tests::dev::{Dev, Project, wait_until_gone};
use single_state_tests::process::program;

#[tokio::test]
async fn sessions_are_kept_in_the_data_folder_which_git_passes_over() -> Result<()> {
    let project = Project::new().await?;
    for (flags, folder) in [(&[][..], ".single-state"), (&["--data", "deep/data"], "deep/data")] {
        let dev = project.dev(flags).await?;
        let mut browser = Browser::connect(&dev.socket("?session=a")).await?;
        browser.send(json!({"tag": "append", "item": folder})).await?;
        browser.wait_for("count", &json!(1)).await?;
        let output = dev.stop().await?;
        let path = project.path(folder).canonicalize()?;
        let told = format!("dev | sessions are kept in {}", path.display());
        assert!(output.lines().any(|line| line == told), "{told} in:\n{output}");
        assert!(!output.contains("instead of leaving"), "a worker was killed:\n{output}");
        assert!(path.join("sessions.sqlite").is_file());
        let ignored = std::fs::read_to_string(path.join(".gitignore"))?;
        assert!(ignored.lines().any(|line| line == "*"), "{ignored}");

        let dev = project.dev(flags).await?;
        assert_eq!(items(&dev).await?, json!([folder]), "in {folder}");
    }
    Ok(())
}

#[tokio::test]
async fn a_new_program_goes_on_with_the_sessions_of_the_old_one_over_the_same_sockets() -> Result<()>
{
    let project = Project::new().await?;
    let dev = project.dev(&["--workers", "1"]).await?;
    let mut browser = Browser::connect(&dev.socket("?session=a")).await?;
    for count in 1..=3 {
        browser.send(json!({"tag": "append", "item": "kept"})).await?;
        browser.wait_for("count", &json!(count)).await?;
        let before = dev.incarnations().await?;
        project.install(&program("worker")).await?;
        dev.wait_until_rolled(&before).await?;
    }
    browser.send(json!({"tag": "append", "item": "kept"})).await?;
    browser.wait_for("count", &json!(4)).await?;
    let output = dev.stop().await?;
    assert!(!output.contains("instead of leaving"), "a worker was killed:\n{output}");
    Ok(())
}

#[tokio::test]
async fn sessions_are_saved_by_workers_that_leave_because_gateway_dev_was_killed() -> Result<()> {
    let project = Project::new().await?;
    let mut dev = project.dev(&[]).await?;
    let mut browser = Browser::connect(&dev.socket("?session=a")).await?;
    browser.send(json!({"tag": "append", "item": "kept"})).await?;
    browser.wait_for("count", &json!(1)).await?;
    let workers = dev.worker_processes();
    dev.gateway.process.kill().await?;
    wait_until_gone(&workers).await?;
    let dev = project.dev(&[]).await?;
    assert_eq!(items(&dev).await?, json!(["kept"]));
    Ok(())
}

#[tokio::test]
async fn with_a_store_in_memory_sessions_end_with_their_worker_and_no_folder_is_made() -> Result<()>
{
    let project = Project::new().await?;
    let dev = project.dev(&["--workers", "1", "--store", "memory:"]).await?;
    let mut browser = Browser::connect(&dev.socket("?session=a")).await?;
    browser.send(json!({"tag": "append", "item": "lost"})).await?;
    browser.wait_for("count", &json!(1)).await?;
    let before = dev.incarnations().await?;
    dev.kill_worker(0)?;
    dev.wait_until_rolled(&before).await?;
    assert_eq!(items(&dev).await?, json!([]));
    assert!(!project.path(".single-state").exists());
    Ok(())
}

async fn items(dev: &Dev) -> Result<serde_json::Value> {
    let mut browser = Browser::connect(&dev.socket("?session=a")).await?;
    browser.send(json!({"tag": "items"})).await?;
    let listed = browser.receive_where(|message| message["tag"] == "items").await?;
    listed.get("items").cloned().context("no items")
}

#[tokio::test]
async fn workers_get_what_suits_an_author_unless_the_environment_says_otherwise() -> Result<()> {
    let project = Project::new().await?;
    let script = "env | grep ^SINGLE_STATE_; echo told; exec bin/worker";
    let arguments = ["dev", "--listen", "127.0.0.1:0", "--workers", "1", "--", "sh", "-c", script];
    let path = project.path("").canonicalize()?.join(".single-state/sessions.sqlite");
    let by_default = [
        ("STORE", format!("sqlite:{}", path.display())),
        ("ON_UNREADABLE", "reset".to_owned()),
        ("CHECK_SNAPSHOTS", "1".to_owned()),
    ];
    let dev = Project::start(project.gateway(&arguments)).await?;
    are_told(&dev, &by_default).await?;

    let wished = [
        ("STORE", "memory:"),
        ("ON_UNREADABLE", "quarantine"),
        ("CHECK_SNAPSHOTS", "0"),
        ("DURABILITY", "durable"),
    ];
    let mut command = project.gateway(&arguments);
    command.envs(wished.map(|(name, value)| (format!("SINGLE_STATE_{name}"), value)));
    let dev = Project::start(command).await?;
    are_told(&dev, &wished.map(|(name, value)| (name, value.to_owned()))).await
}

/// The worker has found these variables in its environment.
async fn are_told(dev: &Dev, variables: &[(&str, String)]) -> Result<()> {
    let told = |line: &str| (line == "worker 0 | told").then_some(());
    dev.gateway.process.wait_for_line(told).await?;
    let output = dev.gateway.process.output();
    for (name, value) in variables {
        let line = format!("worker 0 | SINGLE_STATE_{name}={value}");
        assert_eq!(
            output.lines().filter(|found| *found == line).count(),
            1,
            "{line} in:\n{output}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_made_is_one_clear_sentence() -> Result<()> {
    let project = Project::new().await?;
    project.write("file", "in the way")?;
    for folder in ["file", "file/below", "/proc/no-such-folder"] {
        let dev = ["dev", "--listen", "127.0.0.1:0", "--data", folder, "--", "bin/worker"];
        let (code, stdout, stderr) = project.run(&dev).await?;
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(
            stderr.contains("sessions cannot be kept in ") && stderr.contains(folder),
            "{stderr}"
        );
        assert!(stderr.contains("--data") && stderr.lines().count() == 1, "{stderr}");
    }
    Ok(())
}
