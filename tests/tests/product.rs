//! What is shipped and what is measured has nothing of what only tests may do.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The packages that a build of these is made of.
fn packages(what: &[&str]) -> Result<Vec<String>> {
    let mut tree = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    tree.current_dir(env!("CARGO_MANIFEST_DIR"));
    tree.args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none"]);
    let output = tree.args(["--format", "{p} [{f}]"]).args(what).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{tree:?}: {errors}");
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// Which features the crate of crash points and mutants has, and whether `fail` is there.
fn faults(what: &[&str]) -> Result<(String, bool)> {
    let packages = packages(what)?;
    let faults = packages.iter().find(|package| package.starts_with("single-state-faults "));
    let faults = faults.with_context(|| format!("none in {what:?}"))?;
    let features = faults.rsplit('[').next().unwrap_or_default().trim_end_matches(']').to_owned();
    Ok((features, packages.iter().any(|package| package.starts_with("fail "))))
}

#[test]
fn what_is_built_without_the_tests_feature_has_no_crash_points_and_no_mutants() -> Result<()> {
    let shipped = ["-p", "single-state-gateway", "-p", "single-state-worker"];
    let measured = ["--workspace"];
    let none = (String::new(), false);
    ensure!(faults(&shipped)? == none, "{:?}", faults(&shipped)?);
    ensure!(faults(&measured)? == none, "{:?}", faults(&measured)?);
    let tested = ["--workspace", "--features", "single-state-tests/faults"];
    ensure!(faults(&tested)? == ("on".to_owned(), true), "{:?}", faults(&tested)?);
    Ok(())
}
