//! The supervisor with real processes: what `gateway dev` promises.

use std::{
    cell::RefCell,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{JoinHandle, LocalSet, spawn_local},
    time::{Instant, sleep},
};

use super::{
    DevError, DevOptions, Supervisor, SupervisorHandle,
    output::{Label, Printer},
    process::{Ending, Process},
};

mod builds;

const LONG_ENOUGH: Duration = Duration::from_secs(30);

/// A running supervisor, its folder, and all that it printed.
struct Dev {
    handle: SupervisorHandle,
    addresses: Vec<std::net::SocketAddr>,
    output: Rc<RefCell<Vec<u8>>>,
    shutdown: Option<oneshot::Sender<()>>,
    run: JoinHandle<Result<(), DevError>>,
}

impl Dev {
    fn start(options: DevOptions) -> Self {
        let (printer, output) = Printer::memory();
        let supervisor = Supervisor::with_printer(options, printer).unwrap();
        let (shutdown, asked) = oneshot::channel();
        let handle = supervisor.handle();
        let addresses = supervisor.slots.iter().map(|slot| slot.link).collect();
        let run = spawn_local(supervisor.run(async { drop(asked.await) }));
        Self { handle, addresses, output, shutdown: Some(shutdown), run }
    }

    fn output(&self) -> String {
        String::from_utf8(self.output.borrow().clone()).unwrap()
    }

    /// How many lines begin like this.
    fn count(&self, begin: &str) -> usize {
        self.output().lines().filter(|line| line.starts_with(begin)).count()
    }

    /// Waits until so many lines begin like this; returns the rest of the last one.
    async fn line(&self, begin: &str, times: usize) -> String {
        until(|| self.count(begin) >= times, || format!("{begin:?}\n{}", self.output())).await;
        let output = self.output();
        let line = output.lines().filter_map(|line| line.strip_prefix(begin)).nth(times - 1);
        line.unwrap().trim().to_owned()
    }

    /// The number after such a line's begin.
    async fn number(&self, begin: &str, times: usize) -> i32 {
        let line = self.line(begin, times).await;
        line.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    }

    /// Listens in the place of worker `index`, which is a mere script.
    async fn serve(&self, index: usize) -> TcpListener {
        TcpListener::bind(self.addresses[index]).await.unwrap()
    }

    fn shut_down(&mut self) {
        drop(self.shutdown.take());
    }

    async fn end(mut self) -> String {
        self.shut_down();
        (&mut self.run).await.unwrap().unwrap();
        self.output()
    }
}

/// Runs a test as the gateway runs the supervisor.
fn check(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(test));
}

async fn until(condition: impl Fn() -> bool, explain: impl Fn() -> String) {
    let deadline = Instant::now() + LONG_ENOUGH;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {}", explain());
        sleep(Duration::from_millis(5)).await;
    }
}

fn shell(script: &str) -> DevOptions {
    let command = ["sh", "-c", script].map(OsString::from).into();
    DevOptions { workers: 1, command, ..DevOptions::default() }
}

/// Puts a program in its place as builds do. Another process writes it: what this one, with its many
/// threads that start processes, has open for writing, could not be executed.
fn install(path: &Path, script: &str) {
    let write = r#"printf %s "$1" >"$2.new" && chmod +x "$2.new" && mv "$2.new" "$2""#;
    let status = std::process::Command::new("sh")
        .args(["-c", write, "sh", script])
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Whether a process still runs; one that nobody has reaped yet does not.
fn is_alive(process: i32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

async fn gone(processes: &[i32]) {
    for &process in processes {
        until(|| !is_alive(process), || format!("the end of process {process}")).await;
    }
}

#[test]
fn a_worker_that_dies_is_started_again_at_once_and_then_after_a_delay() {
    check(async {
        let dev = Dev::start(shell("exec sleep 1000"));
        let first = dev.number("dev | worker 0 is process ", 1).await;
        dev.handle.kill(0).await;
        dev.line("dev | worker 0 ended by signal 9, starting it again at once", 1).await;
        assert_ne!(dev.number("dev | worker 0 is process ", 2).await, first);
        dev.handle.kill(0).await;
        dev.line("dev | worker 0 ended by signal 9, starting it again in 0.", 1).await;
        dev.line("dev | worker 0 is process ", 3).await;
        dev.end().await;
    });
}

#[test]
fn a_restart_keeps_the_addresses_and_waits_until_the_worker_serves() {
    check(async {
        let dev = Dev::start(shell("exec sleep 1000"));
        let first = dev.line("dev | worker 0 is process ", 1).await;
        let handle = dev.handle.clone();
        let restarted = spawn_local(async move { handle.restart(0).await });
        let second = dev.line("dev | worker 0 is process ", 2).await;
        let addresses = |line: &str| line.split_once(',').unwrap().1.to_owned();
        assert_eq!(addresses(&first), addresses(&second));
        assert!(second.contains(&dev.addresses[0].to_string()));
        assert!(!restarted.is_finished());
        let _listener = dev.serve(0).await;
        restarted.await.unwrap();
        assert!(!dev.end().await.contains(" ended "), "an asked-for end is no death");
    });
}

#[test]
fn a_restart_of_a_worker_that_then_dies_is_over_and_so_is_one_of_no_worker() {
    check(async {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("worker");
        install(&program, "#!/bin/sh\nexec sleep 1000");
        let dev = Dev::start(DevOptions { command: vec![program.clone().into()], ..shell("") });
        dev.line("dev | worker 0 is process ", 1).await;
        install(&program, "#!/bin/sh\nexit 3");
        dev.handle.restart(0).await;
        dev.line("dev | worker 0 ended with exit code 3, ", 1).await;
        dev.handle.restart(7).await;
        dev.end().await;
    });
}

#[test]
fn what_a_worker_leaves_behind_when_it_dies_is_killed() {
    check(async {
        let script = r#"sleep 1000 & (trap "" TERM; sleep 1000) & echo both $$; wait"#;
        let dev = Dev::start(shell(script));
        let leader = dev.number("worker 0 | both ", 1).await;
        let members = members_of_group(leader, 3).await;
        let pid = rustix::process::Pid::from_raw(leader).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        dev.line("dev | worker 0 ended by signal 9", 1).await;
        gone(&members).await;
        dev.end().await;
    });
}

#[test]
fn a_shutdown_ends_all_workers_and_their_grandchildren() {
    check(async {
        let script = r#"(trap "" TERM; sleep 1000 & sleep 1000) & echo group $$; wait"#;
        let grace = Duration::from_millis(100);
        let dev = Dev::start(DevOptions { workers: 3, grace, ..shell(script) });
        let mut all = Vec::new();
        for index in 0..3 {
            let leader = dev.number(&format!("worker {index} | group "), 1).await;
            all.extend(members_of_group(leader, 3).await);
        }
        dev.end().await;
        assert!(all.iter().all(|&process| !is_alive(process)), "{all:?}");
    });
}

/// Waits until a group has so many members; returns them.
async fn members_of_group(leader: i32, count: usize) -> Vec<i32> {
    let members = || -> Vec<i32> {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.filter(|&process| group_of(process) == Some(leader)).collect()
    };
    until(|| members().len() == count, || format!("{count} members, not {:?}", members())).await;
    members()
}

fn group_of(process: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

#[test]
fn a_worker_behind_a_shell_may_drain_before_its_group_is_killed() {
    check(async {
        // The shell itself leaves at once; its child needs a while after SIGTERM.
        let script = r#"sh -c 'trap "sleep 0.2; echo drained; exit" TERM
            echo ready; while :; do sleep 0.02; done' & wait"#;
        let dev = Dev::start(shell(script));
        dev.line("worker 0 | ready", 1).await;
        assert!(dev.end().await.contains("worker 0 | drained\n"));
    });
}

#[test]
fn a_second_signal_kills_what_takes_its_time() {
    check(async {
        let grace = Duration::from_secs(3600);
        let script = r#"trap "echo no" TERM; echo ready; while :; do sleep 0.02; done"#;
        let mut dev = Dev::start(DevOptions { grace, ..shell(script) });
        dev.line("worker 0 | ready", 1).await;
        dev.shut_down();
        dev.line("worker 0 | no", 1).await;
        dev.handle.kill_now().await;
        let output = dev.end().await;
        assert!(output.contains("worker 0 ended by signal 9 instead of leaving by itself"));
    });
}

#[test]
fn output_is_prefixed_cut_and_made_text() {
    check(async {
        let script = r#"echo one; echo two >&2; printf '\377\n'
            head -c 10000 /dev/zero | tr '\0' x; printf '\nlast'; exec >&- 2>&-; exec sleep 1000"#;
        let dev = Dev::start(shell(script));
        dev.line("worker 0 | last", 1).await;
        dev.line("worker 0 | two", 1).await;
        let output = dev.end().await;
        assert!(output.contains("worker 0 | one\n"));
        assert!(output.contains("worker 0 | \u{fffd}\n"));
        let pieces: Vec<_> = output.lines().filter(|line| line.ends_with("xxx")).collect();
        let prefixed = |piece: &&str| piece.starts_with("worker 0 | x");
        assert!(pieces.len() == 2 && pieces.iter().all(prefixed), "{pieces:?}");
        assert_eq!(pieces.concat().matches('x').count(), 10_000);
    });
}

#[test]
fn the_last_words_of_a_process_are_printed_before_its_end_is_told() {
    check(async {
        let (printer, output) = Printer::memory();
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", "yes | head -n 10000; echo last words"]);
        let process = Process::spawn(&mut command, Label::Build, &printer, LONG_ENOUGH).unwrap();
        // Nothing is read before all is written and the process is over: this thread is kept busy.
        let id = i32::try_from(process.id()).unwrap();
        while is_alive(id) {
            std::thread::yield_now();
        }
        let (_ending, asked) = tokio::sync::watch::channel(Ending::No);
        assert!(process.ended(asked).await.is_success());
        assert!(output.borrow().ends_with(b"build | last words\n"));
    });
}

#[test]
fn a_worker_learns_its_place_from_its_environment_and_its_stdin_stays_open() {
    check(async {
        let extra_env = vec![("SINGLE_STATE_STORE".into(), "extra".into())];
        let script = "env; echo all; cat; echo closed; exec sleep 1000";
        let dev = Dev::start(DevOptions { workers: 2, extra_env, ..shell(script) });
        dev.line("worker 0 | all", 1).await;
        dev.line("worker 1 | all", 1).await;
        for (name, value) in [
            ("INDEX", "1"),
            ("LISTEN", &dev.addresses[1].to_string()),
            ("STORE", "extra"),
            ("CLUSTER", "dev"),
            ("DRAIN_TIMEOUT", "8000ms"),
            ("EXIT_WITH_STDIN", "true"),
        ] {
            dev.line(&format!("worker 1 | SINGLE_STATE_{name}={value}"), 1).await;
        }
        let admin = dev.line("worker 1 | SINGLE_STATE_ADMIN_LISTEN=", 1).await;
        assert_ne!(admin, dev.addresses[1].to_string());
        // A restart takes time enough for the end of the input to show.
        dev.handle.kill(0).await;
        dev.line("worker 0 | all", 2).await;
        assert!(!dev.end().await.contains("closed"));
    });
}

#[test]
fn workers_are_restarted_one_after_the_other_when_their_program_changes() {
    check(async {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("worker");
        install(&program, "#!/bin/sh\necho version 1\nexec sleep 1000");
        let command = vec![program.clone().into(), "argument".into()];
        let dev = Dev::start(DevOptions { workers: 2, command, ..DevOptions::default() });
        dev.line("worker 0 | version 1", 1).await;
        dev.line("worker 1 | version 1", 1).await;
        install(&program, "#!/bin/sh\necho version 2 $1\nexec sleep 1000");
        dev.line("worker 0 | version 2 argument", 1).await;
        assert_eq!(dev.count("worker 1 | version 2"), 0, "worker 0 does not serve yet");
        let _served = (dev.serve(0).await, dev.serve(1).await);
        dev.line("worker 1 | version 2 argument", 1).await;
        dev.line("dev | all workers were restarted", 1).await;
        assert_eq!(dev.count("dev | worker 0 is process"), 2);
        dev.end().await;
    });
}

#[test]
fn a_command_that_cannot_be_started_is_explained_and_ends_it() {
    let missing = DevOptions { command: vec!["./no-such-worker".into()], ..shell("") };
    let sentence = Supervisor::bind(missing).unwrap_err().to_string();
    assert!(sentence.contains("`./no-such-worker` was not found"), "{sentence}");
    check(async {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("worker");
        install(&program, "#!/no/such/interpreter\n");
        for (command, build, reason) in [
            (program.into_os_string(), None, "cannot be started: "),
            ("./no-such-worker".into(), Some("true".to_owned()), "was not found"),
        ] {
            let options = DevOptions { command: vec![command], build, ..in_project(&folder) };
            let dev = Dev::start(options);
            let sentence = dev.run.await.unwrap().unwrap_err().to_string();
            assert!(sentence.contains(reason), "{sentence}");
        }
    });
}

fn in_project(folder: &tempfile::TempDir) -> DevOptions {
    DevOptions { workers: 1, project: PathBuf::from(folder.path()), ..DevOptions::default() }
}
