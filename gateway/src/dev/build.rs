//! When to build, and when to roll the workers: the supervisor's part that follows the sources and
//! the program.
//!
//! Both questions meet in the program's fingerprint: a build that made nothing new rolls nothing,
//! and what the watch on the program sees of a build is no second reason to roll.

use std::{path::Path, process::Stdio};

use tokio::{process::Command, sync::watch};

use super::{
    output::Label,
    process::{Ended, Ending, Process, ask},
    program::Fingerprint,
    supervisor::{Event, Supervisor},
    turn::Turn,
    watch::Watch,
};

/// Builds and rolls: what is going on, and for which program the workers were started.
#[derive(Debug, Default)]
pub(crate) struct Builds {
    building: Turn,
    /// Ends the build that runs.
    ending: Option<watch::Sender<Ending>>,
    rolling: Turn,
    /// The program when the workers were last started or rolled.
    served: Option<Fingerprint>,
}

impl Builds {
    pub(crate) fn end(&self, ending: Ending) {
        if let Some(asked) = &self.ending {
            ask(asked, ending);
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.ending.is_some()
    }
}

impl Supervisor {
    /// Watches the sources and builds, if there is a build; the workers start after it.
    pub(crate) fn begin_builds(&mut self) {
        if self.options.build.is_none() {
            return;
        }
        let (project, others) = (&self.options.project, &self.options.not_sources);
        match Watch::sources(project, others, self.program.watched().as_deref()) {
            Ok(watch) => self.follow_sources(watch),
            Err(error) => self.say(&format!(
                "cannot watch the sources in {}: {error}; restart `gateway dev` to build again",
                project.display()
            )),
        }
        self.say("building; the workers are started when that is done");
        self.ask_for_build();
    }

    /// Begins to watch the workers' program, just before they start for the first time: from then on
    /// `served` tells a change.
    pub(crate) fn watch_program(&mut self) {
        if let Some(path) = self.program.watched() {
            match Watch::program(&path) {
                Ok(watch) => self.follow_program(watch),
                Err(error) => self.say(&format!(
                    "cannot watch {}: {error}; workers will not restart when it changes",
                    path.display()
                )),
            }
        }
        self.builds.served = self.program.fingerprint();
    }

    fn follow_program(&mut self, mut watch: Watch) {
        self.tasks.spawn_local(async move {
            watch.settled().await;
            Event::ProgramChanged { watch }
        });
    }

    fn follow_sources(&mut self, mut watch: Watch) {
        self.tasks.spawn_local(async move {
            let path = watch.settled().await;
            Event::SourcesChanged { watch, path }
        });
    }

    /// While a build runs its end decides, so that the workers roll once, to what it made at last.
    pub(crate) fn on_program_changed(&mut self, watch: Watch) {
        self.follow_program(watch);
        if !self.builds.building.is_busy() {
            self.roll_if_changed();
        }
    }

    pub(crate) fn on_sources_changed(&mut self, watch: Watch, path: &Path) {
        if self.is_ending() {
            return;
        }
        self.follow_sources(watch);
        let what = path.strip_prefix(&self.options.project).unwrap_or(path).display();
        if self.builds.building.is_busy() {
            self.say(&format!("{what} changed during the build, it will be built once more"));
        } else {
            self.say(&format!("{what} changed, building"));
        }
        self.ask_for_build();
    }

    fn ask_for_build(&mut self) {
        if self.builds.building.ask() {
            self.build();
        }
    }

    fn build(&mut self) {
        let mut command = Command::new("sh");
        command.arg("-c").arg(self.options.build.as_deref().unwrap_or_default());
        command.current_dir(&self.options.project).stdin(Stdio::null());
        match Process::spawn(&mut command, Label::Build, &self.printer, self.options.grace) {
            Ok(process) => {
                let (ending, asked) = watch::channel(Ending::No);
                self.builds.ending = Some(ending);
                self.tasks.spawn_local(async move { Event::Built(process.ended(asked).await) });
            }
            Err(error) => {
                self.say(&format!("cannot run the build with `sh`: {error}"));
                self.tasks.spawn_local(async { Event::Built(Ended::unknown()) });
            }
        }
    }

    pub(crate) fn on_built(&mut self, ended: Ended) {
        self.builds.ending = None;
        if self.is_ending() {
            return;
        }
        if ended.is_success() {
            if !self.is_serving() {
                self.start_all();
            } else if !self.roll_if_changed() {
                self.say("built; the workers' program is still the same");
            }
        } else {
            self.on_build_failed(ended);
        }
        // The workers may have failed to start: then nothing is built any more.
        if self.builds.building.done() && !self.is_ending() {
            self.build();
        }
    }

    fn on_build_failed(&mut self, ended: Ended) {
        if self.is_serving() {
            self.say(&format!("the build ended {ended}; the workers go on as they are"));
        } else if self.program.check().is_ok() {
            self.say(&format!("the build ended {ended}; starting the program that is there"));
            self.start_all();
        } else {
            self.say(&format!(
                "the build ended {ended} and there is no worker program yet; \
                 waiting for the next change of the sources"
            ));
        }
    }

    /// Whether the workers are or will be rolled, because their program is another one by now.
    fn roll_if_changed(&mut self) -> bool {
        let now = self.program.fingerprint();
        if !self.is_serving() || now.is_none() || self.builds.served == now {
            return false;
        }
        self.builds.served = now;
        if self.builds.rolling.ask() {
            self.roll();
        }
        true
    }

    fn roll(&mut self) {
        self.say("the workers' program changed, restarting them one after the other");
        let roll = self.handle().roll(self.options.workers);
        self.tasks.spawn_local(async move {
            roll.await;
            Event::Rolled
        });
    }

    pub(crate) fn on_rolled(&mut self) {
        if self.is_ending() {
            return;
        }
        if self.builds.rolling.done() {
            self.roll();
        } else {
            self.say("all workers were restarted");
        }
    }
}
