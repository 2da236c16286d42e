//! The supervisor's loop: waits for one event, applies it, until all is over.

use std::{
    env, io,
    net::SocketAddr,
    panic,
    path::PathBuf,
    pin::{Pin, pin},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    DevError, DevOptions,
    build::Builds,
    data,
    handle::{Command, SupervisorHandle},
    output::{Label, Printer},
    ports,
    process::{Ended, Ending},
    program::Program,
    slot::Slot,
    watch::Watch,
};

/// Starts the workers and keeps them going; see the [module](super).
#[derive(Debug)]
pub struct Supervisor {
    pub(crate) options: DevOptions,
    pub(crate) program: Program,
    pub(crate) printer: Printer,
    pub(crate) builds: Builds,
    /// Each ends with the event that it was started for.
    pub(crate) tasks: JoinSet<Event>,
    /// By index; those beyond the wanted number are leaving.
    pub(crate) slots: Vec<Slot>,
    /// Where the wanted workers are, once they have been started.
    pub(crate) addresses: watch::Sender<Vec<SocketAddr>>,
    /// Where these tell operators of themselves.
    pub(crate) admins: watch::Sender<Vec<SocketAddr>>,
    pub(crate) phase: Phase,
    /// Why it ended before anybody asked it to.
    pub(crate) failure: Option<DevError>,
    handle: SupervisorHandle,
    commands: mpsc::Receiver<Command>,
}

/// Starting → Serving → Ending. A failed first build keeps it in Starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No worker has been started yet.
    Starting,
    /// All workers have been started.
    Serving,
    /// Everything is being stopped.
    Ending,
}

/// Everything that can happen.
#[derive(Debug)]
pub(crate) enum Event {
    Shutdown,
    Asked(Command),
    WorkerEnded {
        index: u32,
        ended: Ended,
    },
    /// The delay before the next start is over.
    WorkerDue {
        index: u32,
        run: u64,
    },
    /// It accepts connections, or took too long to.
    WorkerProbed {
        index: u32,
        run: u64,
    },
    ProgramChanged {
        watch: Watch,
    },
    SourcesChanged {
        watch: Watch,
        path: PathBuf,
    },
    Built(Ended),
    Rolled,
}

impl Supervisor {
    /// Makes the data folder and reserves the ports. Without a build, it also makes sure that the
    /// command names a program.
    pub fn bind(options: DevOptions) -> Result<Self, DevError> {
        Self::with_printer(options, Printer::stderr(env::var_os("NO_COLOR").is_some()))
    }

    pub(crate) fn with_printer(
        mut options: DevOptions,
        printer: Printer,
    ) -> Result<Self, DevError> {
        // Events name canonical paths, and so do the lines that name what changed.
        options.project = options.project.canonicalize().unwrap_or(options.project);
        let program = Program::of(&options.command);
        if options.build.is_none() {
            program.check()?;
        }
        if let Some(folder) = &options.data {
            let wrong = |source| DevError::Data { folder: folder.clone(), source };
            data::prepare(folder).map_err(wrong)?;
        }
        let slots = reserve_slots(options.workers).map_err(DevError::Ports)?;
        let (handle, commands) = SupervisorHandle::new();
        Ok(Self {
            options,
            program,
            printer,
            builds: Builds::default(),
            tasks: JoinSet::new(),
            addresses: watch::Sender::default(),
            admins: watch::Sender::default(),
            slots,
            phase: Phase::Starting,
            failure: None,
            handle,
            commands,
        })
    }

    /// Where gateways reach the workers, in the order of their indices; changes with their number.
    /// None as long as none was started: while the first build runs there is nobody to be dialled.
    pub fn addresses(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.addresses.subscribe()
    }

    /// Where the workers tell operators of themselves, in the same order.
    pub fn admins(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.admins.subscribe()
    }

    /// To ask for something while it runs.
    pub fn handle(&self) -> SupervisorHandle {
        self.handle.clone()
    }

    /// Builds if it shall, starts the workers, and looks after them until `shutdown`; returns when
    /// no process is left. An error means that the workers could not even be started once.
    ///
    /// Must run inside a `LocalSet`.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), DevError> {
        let mut shutdown = pin!(shutdown);
        if let Some(folder) = &self.options.data {
            self.say(&format!("sessions are kept in {}", folder.display()));
        }
        self.begin_builds();
        if self.options.build.is_none() {
            self.start_all();
        }
        while !self.is_over() {
            let event = self.next(shutdown.as_mut()).await;
            self.apply(event);
        }
        self.failure.map_or(Ok(()), Err)
    }

    async fn next(&mut self, shutdown: Pin<&mut impl Future<Output = ()>>) -> Event {
        tokio::select! {
            biased;
            () = shutdown, if !self.is_ending() => Event::Shutdown,
            Some(command) = self.commands.recv() => Event::Asked(command),
            Some(done) = self.tasks.join_next() => match done {
                Ok(event) => event,
                // Nobody aborts these tasks, so one panicked: a bug, and all end with it.
                Err(error) => panic::resume_unwind(error.into_panic()),
            },
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Shutdown => self.end_all(Ending::Gently),
            Event::Asked(Command::KillNow) => self.end_all(Ending::AtOnce),
            Event::Asked(Command::Restart { index, done }) => self.restart(index, done),
            Event::Asked(Command::Kill { index }) => self.kill(index),
            Event::Asked(Command::Scale { workers }) => self.scale(workers),
            Event::WorkerEnded { index, ended } => self.on_worker_ended(index, ended),
            Event::WorkerDue { index, run } => self.on_worker_due(index, run),
            Event::WorkerProbed { index, run } => self.on_worker_probed(index, run),
            Event::ProgramChanged { watch } => self.on_program_changed(watch),
            Event::SourcesChanged { watch, path } => self.on_sources_changed(watch, &path),
            Event::Built(ended) => self.on_built(ended),
            Event::Rolled => self.on_rolled(),
        }
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.phase == Phase::Serving
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.phase == Phase::Ending
    }

    fn is_over(&self) -> bool {
        let is_quiet = !self.builds.is_running() && !self.slots.iter().any(Slot::has_process);
        self.is_ending() && is_quiet
    }

    /// Tells the user what happens.
    pub(crate) fn say(&self, sentence: &str) {
        self.printer.print(Label::Dev, sentence);
    }
}

/// Two ports for each worker, all different.
pub(super) fn reserve_slots(workers: u32) -> io::Result<Vec<Slot>> {
    let mut free = ports::reserve(2 * workers as usize)?.into_iter();
    let mut slots = Vec::new();
    while let (Some(link), Some(admin)) = (free.next(), free.next()) {
        let addresses = (link.local_addr()?, admin.local_addr()?);
        slots.push(Slot::new(addresses, vec![link, admin]));
    }
    Ok(slots)
}
