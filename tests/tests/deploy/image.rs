//! The image that `deploy/image/oci.sh` packs: a valid archive, from which the pod with SQLite runs as
//! its manifest says, as nobody in particular, with nothing to write to but its volume.
//!
//! `make image` runs these tests with the static programs that are deployed. Else they pack this
//! build's programs, which need libraries: those of the machine are put under them, read-only.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use single_state_tests::browser::Browser;
use single_state_tests::cluster::{Node, start_node};
use single_state_tests::process::program;
use tempfile::TempDir;

use single_state_tests::manifests::{containers, list, pods, render, root, text};

const USER: &str = "65532";
const PROGRAMS: [&str; 3] = ["gateway", "worker", "swarm"];
/// Of those that every runtime of containers gives; static programs get their random numbers there.
const DEVICES: [&str; 3] = ["null", "random", "urandom"];
/// Keys as the manifest's Secrets have them.
const KEY: &str = "00112233445566778899aabbccddeeff";

/// An archive, unpacked.
struct Image {
    folder: TempDir,
    archive: PathBuf,
    /// Its programs need the machine's libraries.
    is_dynamic: bool,
}

impl Image {
    /// The archive that `make image` has made, else one of this build's programs.
    fn get() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let made = std::env::var_os("SINGLE_STATE_TEST_IMAGE").map(PathBuf::from);
        let is_dynamic = made.is_none();
        let archive = match made {
            Some(archive) => archive,
            None => pack(folder.path(), "image.tar")?,
        };
        std::fs::create_dir(folder.path().join("image"))?;
        run(Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(folder.path().join("image")))?;
        Ok(Self { folder, archive, is_dynamic })
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join("image").join(file)
    }

    fn json(&self, file: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&std::fs::read(self.path(file))?)?)
    }

    /// The file of a descriptor, whose digest and size must be right.
    fn blob(&self, descriptor: &Value) -> Result<String> {
        let digest = descriptor["digest"].as_str().context("a digest")?;
        let digest = digest.strip_prefix("sha256:").context("sha256")?;
        let file = format!("blobs/sha256/{digest}");
        let bytes = std::fs::read(self.path(&file))?;
        ensure!(sha256(&bytes) == digest, "{file} is another");
        ensure!(descriptor["size"] == bytes.len(), "{file} has {} bytes", bytes.len());
        Ok(file)
    }

    fn manifest(&self) -> Result<Value> {
        let index = self.json("index.json")?;
        self.json(&self.blob(&index["manifests"][0])?)
    }

    /// The one layer, as tar has it.
    fn layer(&self) -> Result<Vec<u8>> {
        let manifest = self.manifest()?;
        ensure!(list(&manifest["layers"]).len() == 1, "{manifest}");
        let file = self.blob(&manifest["layers"][0])?;
        run(Command::new("gzip").arg("-dc").arg(self.path(&file)))
    }
}

/// Packs this build's programs, without what debuggers want of them.
fn pack(folder: &Path, name: &str) -> Result<PathBuf> {
    let programs = folder.join("programs");
    std::fs::create_dir_all(&programs)?;
    for name in PROGRAMS {
        run(Command::new("strip").arg("-o").arg(programs.join(name)).arg(program(name)))?;
    }
    pack_these(&programs, &folder.join(name))
}

fn pack_these(programs: &Path, archive: &Path) -> Result<PathBuf> {
    run(Command::new(root().join("deploy/image/oci.sh")).arg(programs).arg(archive))?;
    Ok(archive.to_owned())
}

/// Runs a command that must succeed; what it prints.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {told}");
    Ok(output.stdout)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_archive_is_an_image_whose_digests_are_right() -> Result<()> {
    let image = Image::get()?;
    ensure!(image.json("oci-layout")?["imageLayoutVersion"] == "1.0.0", "its layout's version");
    let manifest = image.manifest()?;
    let config = image.json(&image.blob(&manifest["config"])?)?;
    let layer = image.layer()?;
    let diff_id = format!("sha256:{}", sha256(&layer));
    ensure!(config["rootfs"]["diff_ids"] == json!([diff_id]), "{config} for {diff_id}");
    ensure!(config["config"]["User"] == format!("{USER}:{USER}"), "{config}");
    let variables = config["config"]["Env"].as_array().context("variables")?;
    let variables: Vec<_> = variables.iter().filter_map(Value::as_str).collect();
    let dockerfile = text("image/Dockerfile")?;
    let same = format!("ENV {}\n", variables.join(" "));
    ensure!(dockerfile.contains(&same), "another image has other variables than {same}");
    // A second reader, which knows the rules from elsewhere.
    let copy = image.folder.path().join("copy");
    let from = format!("oci-archive:{}", image.archive.display());
    run(Command::new("skopeo").args(["copy", &from, &format!("dir:{}", copy.display())]))?;
    run(Command::new("skopeo").args(["inspect", "--config", &from])).map(drop)
}

#[test]
fn the_same_programs_give_the_same_bytes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for name in PROGRAMS {
        std::fs::write(folder.path().join(name), name)?;
    }
    let pack = |name: &str| -> Result<String> {
        Ok(sha256(&std::fs::read(pack_these(folder.path(), &folder.path().join(name))?)?))
    };
    let first = pack("first")?;
    ensure!(first == pack("second")?, "two archives differ");
    // Nor do the bytes depend on the time.
    let list =
        run(Command::new("tar").arg("-tvf").arg(folder.path().join("first")).env("TZ", "UTC"))?;
    let list = String::from_utf8(list)?;
    ensure!(list.lines().all(|line| line.contains(" 1970-01-01 ")), "{list}");
    std::fs::write(folder.path().join("swarm"), "another")?;
    ensure!(first != pack("third")?, "other programs give the same archive");
    Ok(())
}

/// The image's files, with what a container's runtime adds: devices, names, mounted keys, the volume.
struct Pod {
    image: Image,
    spec: Value,
}

impl Pod {
    fn get() -> Result<Self> {
        let image = Image::get()?;
        let objects = render("single-node")?;
        let (_, spec) = pods(&objects).next().context("a pod")?;
        let pod = Self { image, spec: spec.clone() };
        let root = pod.root();
        let layer = pod.image.folder.path().join("layer.tar");
        std::fs::write(&layer, pod.image.layer()?)?;
        std::fs::create_dir(&root)?;
        run(Command::new("tar")
            .arg("-xf")
            .arg(&layer)
            .arg("-C")
            .arg(&root)
            .arg("--no-same-owner"))?;
        for folder in ["dev", "etc", "keys/session", "lib", "lib64", "usr"] {
            std::fs::create_dir_all(root.join(folder))?;
        }
        for device in DEVICES {
            std::fs::write(root.join("dev").join(device), "")?;
        }
        std::fs::create_dir(pod.volume())?;
        std::fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
        std::fs::write(root.join("keys/session/keys"), format!("{KEY}{KEY}\n"))?;
        Ok(pod)
    }

    fn root(&self) -> PathBuf {
        self.image.folder.path().join("root")
    }

    fn volume(&self) -> PathBuf {
        self.image.folder.path().join("volume")
    }

    /// Starts a container as the manifest says, but at ports of its own.
    async fn start(&self, name: &str, more: &[String]) -> Result<Node> {
        let mut containers = containers(&self.spec);
        let container = containers.find(|container| container["name"] == name);
        let container = container.context("a container")?;
        let words = list(&container["command"]).iter().chain(list(&container["args"]));
        let words = words.filter_map(Value::as_str).map(|word| match word.split_once('=') {
            Some((flag @ ("--listen" | "--admin-listen"), _)) => format!("{flag}=127.0.0.1:0"),
            _ => word.to_owned(),
        });
        // What is given in place of the manifest's, is.
        let is_replaced = |word: &String| {
            let flag = |word: &str| word.split('=').next().map(str::to_owned);
            word.starts_with('-') && more.iter().any(|more| flag(more) == flag(word))
        };
        let words: Vec<_> = words.filter(|word| !is_replaced(word)).chain(more.to_vec()).collect();
        let command = self.confined(&words);
        start_node(name, command, &format!("{name} listens")).await
    }

    /// A command within the image: its root read-only, its user not root and without capabilities.
    fn confined(&self, words: &[String]) -> tokio::process::Command {
        let libraries = if self.image.is_dynamic { "usr lib lib64" } else { "" };
        let devices = DEVICES.join(" ");
        let script = format!(
            "set -e; cd \"$1\"; mount --bind . .; cd \"$1\"; mount --bind \"$2\" data\n\
             for device in {devices}; do mount --bind /dev/$device dev/$device; done\n\
             for folder in {libraries}; do\n\
               mount --rbind /$folder $folder; mount -o remount,bind,ro $folder\n\
             done\n\
             mount -o remount,bind,ro \"$1\"; root=$1; shift 2\n\
             exec unshare --user --map-user={USER} --map-group={USER} --root=\"$root\" \"$@\""
        );
        let mut command = tokio::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
        command.arg(self.root()).arg(self.volume()).args(words);
        command.env_clear().env("SINGLE_STATE_PLACEMENT_KEY", KEY);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }
}

/// What the kernel says of a process: it is not root, may nothing, and may write nowhere but there.
fn must_be_confined(node: &Node) -> Result<()> {
    let id = node.process.id().context("it runs")?;
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{id}/{file}"));
    let users = read("uid_map")?;
    ensure!(users.split_whitespace().next() == Some(USER), "its user is of {users}");
    let status = read("status")?;
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let none = capabilities.is_some_and(|set| set.trim().chars().all(|digit| digit == '0'));
    ensure!(none, "its capabilities are {capabilities:?}");
    let mounts = read("mountinfo")?;
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let writable: Vec<_> = mounts
        .filter(|m| m[5].split(',').any(|word| word == "rw") && !m[4].starts_with("/dev/"))
        .map(|m| m[4].to_owned())
        .collect();
    ensure!(writable == ["/data"], "it may write to {writable:?}");
    Ok(())
}

#[tokio::test]
async fn the_pod_with_sqlite_serves_a_session_from_a_read_only_root_and_keeps_it() -> Result<()> {
    let pod = Pod::get()?;
    for name in PROGRAMS {
        let help = pod.confined(&[format!("/{name}"), "--help".to_owned()]).output().await?;
        ensure!(help.status.success(), "{name}: {}", String::from_utf8_lossy(&help.stderr));
    }
    let mut session = String::new();
    for round in 1..=2 {
        let mut worker = pod.start("worker", &[]).await?;
        // By name, as in a cluster: names are looked up by what is linked into the program.
        let (_, port) = worker.address.rsplit_once(':').context("a port")?;
        let known = format!("--workers=localhost:{port}");
        let mut gateway = pod.start("gateway", &[known]).await?;
        must_be_confined(&worker)?;
        must_be_confined(&gateway)?;
        let url = format!("ws://{}/ws?session={session}", gateway.address);
        let url = if session.is_empty() { url.replace("?session=", "") } else { url };
        let mut browser = Browser::connect(&url).await?;
        browser.send(json!({"tag": "append", "item": format!("round {round}")})).await?;
        browser.wait_for("count", &json!(round)).await?;
        if session.is_empty() {
            let cookie = browser.header("set-cookie").context("a cookie")?;
            let token = cookie.split([';', '=']).nth(1).context("a token")?;
            session = token.to_owned();
        }
        browser.close().await?;
        // As when the pod ends: first the gateway, then what runs beside it.
        for node in [&mut gateway, &mut worker] {
            node.process.signal("TERM")?;
            let status = node.process.wait().await?;
            ensure!(status.success(), "{status}: {}", node.process.output());
        }
    }
    Ok(())
}
