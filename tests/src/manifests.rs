//! The files of `deploy/`, and its manifests as `kubectl kustomize` renders them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// All folders that render to a whole.
pub const WHOLE: [&str; 3] = ["overlays/dev", "overlays/prod", "single-node"];
/// And what a cluster may use in place of a part of them.
pub const OTHER: [&str; 1] = ["parts/gateway-api"];

/// The top of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder around tests/")
}

/// A file of `deploy/`.
pub fn deploy(path: &str) -> PathBuf {
    root().join("deploy").join(path)
}

/// The text of a file of `deploy/`.
pub fn text(path: &str) -> Result<String> {
    std::fs::read_to_string(deploy(path)).with_context(|| format!("read deploy/{path}"))
}

/// The program that `tests/setup.sh` has fetched, else the machine's.
pub fn tool(name: &str) -> PathBuf {
    let fetched = root().join("target/tools").join(name);
    if fetched.exists() { fetched } else { name.into() }
}

/// All objects of a folder of `deploy/kubernetes/`.
pub fn render(folder: &str) -> Result<Vec<Value>> {
    let folder = deploy("kubernetes").join(folder);
    let output = Command::new(tool("kubectl")).arg("kustomize").arg(&folder).output();
    let output = output.context("run kubectl: `tests/setup.sh test` gets it")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && told.is_empty(), "{}: {told}", folder.display());
    let objects: Vec<Value> = serde_saphyr::from_multiple(&String::from_utf8(output.stdout)?)?;
    ensure!(!objects.is_empty(), "{} renders to nothing", folder.display());
    Ok(objects)
}

/// `kind/name` of an object.
pub fn title(object: &Value) -> String {
    let part = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
    format!("{}/{}", part("/kind"), part("/metadata/name"))
}

/// The objects of one kind.
pub fn of_kind<'a>(objects: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// The one object of this title.
pub fn the<'a>(objects: &'a [Value], wanted: &str) -> Result<&'a Value> {
    objects.iter().find(|object| title(object) == wanted).with_context(|| format!("no {wanted}"))
}

/// The pods' specs, with the titles of what makes them.
pub fn pods(objects: &[Value]) -> impl Iterator<Item = (String, &Value)> {
    objects
        .iter()
        .filter_map(|object| Some((title(object), object.pointer("/spec/template/spec")?)))
}

/// All containers of a pod's spec, also those that run beside the others.
pub fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(&pod["initContainers"]).iter().chain(list(&pod["containers"]))
}

/// The elements of an array; none if it is absent.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
