//! A pod: a process on a host, started as its template says, and ended as Kubernetes ends it.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use single_state_tests::append::wait_until;
use single_state_tests::cluster::{Node, http_get};
use single_state_tests::network::Host;
use single_state_tests::process::{Process, program};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::template::{ACCOUNT, Template};

/// What a pod is given beside its template.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// The file of all names.
    pub(crate) names: std::path::PathBuf,
    /// Where the API is.
    pub(crate) api: [(&'static str, String); 2],
    /// Files of the service account.
    pub(crate) account: Vec<(&'static str, Vec<u8>)>,
}

/// A running pod.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) host: Host,
    pub(crate) node: Node,
    pub(crate) template: Template,
    _root: TempDir,
}

/// How a pod has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// From TERM to its end.
    pub(crate) took: Duration,
    pub(crate) code: Option<i32>,
    /// It had to be killed.
    pub(crate) was_killed: bool,
}

impl Pod {
    pub(crate) fn start(
        name: &str,
        host: Host,
        template: &Template,
        around: &Surroundings,
    ) -> Result<Self> {
        let root = root(template, around)?;
        let of_program = program(template.command.trim_start_matches('/'));
        let mut command = host.command();
        command.args(["unshare", "--mount", "--uts", "--ipc", "--", "sh", "-c"]);
        command.args([include_str!("pod.sh"), "pod", name]).arg(root.path().join("root"));
        command.arg(&around.names).arg(of_program);
        command.args([template.user, template.group].map(|id| id.to_string()));
        command.arg(&template.command).args(&template.args);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(around.api.clone()).envs(template.env.clone());
        let process = Process::spawn(name, command)?;
        let at = |port: &str| {
            Ok::<_, anyhow::Error>(format!("{}:{}", host.address, template.port(port)?))
        };
        let listens = if template.port("http").is_ok() { "http" } else { "link" };
        let node = Node { process, address: at(listens)?, admin: at("admin")?, place: None };
        Ok(Self { name: name.to_owned(), host, node, template: template.clone(), _root: root })
    }

    /// Starts it again under its name and address.
    pub(crate) fn start_again(self, around: &Surroundings) -> Result<Self> {
        Self::start(&self.name, self.host, &self.template, around)
    }

    /// Waits until it says that it is ready, and has been so for as long as it must.
    pub(crate) async fn until_ready(&self, min_ready: Duration) -> Result<()> {
        let (path, port) = &self.template.ready;
        let at = format!("{}:{port}", self.host.address);
        let ready = wait_until("a pod is ready", async || {
            Ok(matches!(http_get(&at, path).await, Ok((200, _))))
        });
        ready.await.with_context(|| format!("{}: {}", self.name, self.node.process.output()))?;
        sleep(min_ready).await;
        Ok(())
    }

    /// Ends it: TERM, and KILL when its time is over, of which preStop has taken some.
    pub(crate) async fn terminate(&mut self) -> Result<Ended> {
        let began = Instant::now();
        self.node.process.signal("TERM")?;
        let time = self.template.grace - self.template.pre_stop;
        let status = self.node.process.wait_at_most(time).await?;
        if status.is_none() {
            self.node.process.kill().await?;
        }
        let code = status.and_then(|status| status.code());
        Ok(Ended { took: began.elapsed(), code, was_killed: status.is_none() })
    }

    /// The whole host dies: nobody hears of it.
    pub(crate) async fn die(mut self) -> Result<()> {
        self.host.cut()?;
        self.node.process.kill().await
    }
}

impl Ended {
    /// It has left nothing, in its time.
    pub(crate) fn is_clean(self, what: &str) -> Result<()> {
        ensure!(self.code == Some(0) && !self.was_killed, "{what} ended so: {self:?}");
        Ok(())
    }
}

/// Makes the root of a container: what is mounted over, and the files of Secrets, which only the
/// pod's group may read.
fn root(template: &Template, around: &Surroundings) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root");
    for path in ["usr", "etc", "dev", "proc"] {
        std::fs::create_dir_all(root.join(path))?;
    }
    std::fs::set_permissions(&root, Permissions::from_mode(0o755))?;
    for link in ["lib", "lib64", "bin", "sbin"] {
        symlink(format!("usr/{link}"), root.join(link))?;
    }
    let command = template.command.trim_start_matches('/');
    for file in ["etc/hosts", "dev/null", "dev/urandom", command] {
        std::fs::write(root.join(file), "")?;
    }
    std::fs::write(root.join("etc/nsswitch.conf"), "hosts: files\n")?;
    let write = |path: &str, content: &[u8]| -> Result<()> {
        let file = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
        std::fs::write(&file, content)?;
        std::fs::set_permissions(&file, Permissions::from_mode(0o440))?;
        Ok(chown(&file, None, Some(template.group))?)
    };
    for (path, content) in &template.files {
        write(path, content)?;
    }
    for (name, content) in around.account.iter().filter(|_| template.has_token) {
        write(&format!("{ACCOUNT}/{name}"), content)?;
    }
    Ok(folder)
}
