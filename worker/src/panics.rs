//! What a panic prints. Its message and its place come from the standard library; of the trace, which
//! is printed where RUST_BACKTRACE is set, most frames are those of this library and of the runtime:
//! only those in sources of the app itself are left.

use std::backtrace::Backtrace;
use std::io::Write as _;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::path::{Path, PathBuf};

use crate::actor::panic_text;

/// Parts of paths that only sources of the standard library and of cargo's downloads have.
const DOWNLOADED: [&str; 4] = ["/rustc/", "/rustlib/src/", "/registry/src/", "/git/checkouts/"];

/// Shortens the traces of panics in an app. All other panics are told as ever.
pub(crate) fn shorten_traces() {
    let told_as_ever = take_hook();
    let sources = Sources::new(std::env::current_dir().unwrap_or_default());
    set_hook(Box::new(move |panic| {
        // Says so instead of a trace unless RUST_BACKTRACE is set.
        let trace = Backtrace::capture().to_string();
        let frames = sources.frames_of_the_app(&trace);
        if frames.is_empty() { told_as_ever(panic) } else { tell(panic, &frames) }
    }));
}

fn tell(panic: &PanicHookInfo<'_>, frames: &[String]) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let mut text = format!("the app panicked at {place}: {}\n", panic_text(panic.payload()));
    for frame in frames {
        text.push_str(&format!("    at {frame}\n"));
    }
    text.push_str("    (these are the app's own frames; RUST_BACKTRACE=full shows all)\n");
    // That nobody reads it is no reason for another panic.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Whose sources lie where. Names of frames do not tell: those of async functions have no crate.
struct Sources {
    /// Traces name files below it by `./`.
    here: PathBuf,
    /// This library's folders.
    ours: [PathBuf; 3],
    /// An app among them.
    demo: PathBuf,
    /// Everything outside of it is how an app is run, its `main` too.
    entry: PathBuf,
}

impl Sources {
    fn new(here: PathBuf) -> Self {
        let worker = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = worker.parent().unwrap_or(worker);
        Self {
            here,
            ours: [root.join("proto"), worker.join("src"), worker.join("store")],
            demo: worker.join("src/demo"),
            entry: worker.join("src/app.rs"),
        }
    }

    /// The frames of the app in a trace as the standard library prints it: place and name.
    fn frames_of_the_app(&self, trace: &str) -> Vec<String> {
        let mut frames = Vec::new();
        let mut name = "";
        for line in trace.lines().map(str::trim) {
            let Some(place) = line.strip_prefix("at ") else {
                name = line.split_once(": ").map_or("", |(_, name)| name);
                continue;
            };
            let file = self.here.join(place.split(':').next().unwrap_or_default());
            if file == self.entry {
                break;
            }
            if self.is_of_the_app(&file) {
                // `{async_fn#0}` tells nothing that the place does not.
                let name = if name.starts_with('{') { "" } else { name };
                let within = if name.is_empty() { "" } else { " in " };
                frames.push(format!("{place}{within}{name}"));
            }
        }
        frames
    }

    fn is_of_the_app(&self, file: &Path) -> bool {
        let is_ours = self.ours.iter().any(|folder| file.starts_with(folder));
        let text = file.to_string_lossy();
        // The C library has files, too.
        text.ends_with(".rs")
            && !DOWNLOADED.iter().any(|part| text.contains(part))
            && (!is_ours || file.starts_with(&self.demo))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The trace of these places, each with a name.
    fn trace(places: &[&str]) -> String {
        let frames = places.iter().enumerate();
        let frames = frames.map(|(i, place)| format!("{i:4}: f{i}\n             at {place}:1:2\n"));
        frames.collect()
    }

    #[test]
    fn of_a_trace_the_frames_in_sources_of_the_app_are_left() {
        let ours = |file: &str| format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        let trace = trace(&[
            "/rustc/5/library/std/src/panicking.rs",
            "./src/lib.rs",
            "/home/anna/.cargo/registry/src/index/serde-1/src/de.rs",
            "/home/anna/helpers/src/lib.rs",
            &ours("src/actor/call.rs"),
            &ours("examples/counter.rs"),
            &ours("src/demo/mod.rs"),
            &ours("src/app.rs"),
            "./src/main.rs",
            "./nptl/pthread_create.c",
        ]);
        let frames = Sources::new("/home/anna/app".into()).frames_of_the_app(&trace);
        let expected = [
            "./src/lib.rs:1:2 in f1".to_owned(),
            "/home/anna/helpers/src/lib.rs:1:2 in f3".to_owned(),
            format!("{}:1:2 in f5", ours("examples/counter.rs")),
            format!("{}:1:2 in f6", ours("src/demo/mod.rs")),
        ];
        assert_eq!(frames, expected);
    }

    #[test]
    fn this_librarys_own_folder_is_known_where_it_is_the_current_one() {
        let sources = Sources::new(env!("CARGO_MANIFEST_DIR").into());
        let trace = trace(&["./src/link.rs", "./examples/counter.rs"]);
        assert_eq!(sources.frames_of_the_app(&trace), ["./examples/counter.rs:1:2 in f1"]);
    }

    #[test]
    fn where_there_is_no_trace_there_are_no_frames() {
        assert!(Sources::new("/".into()).frames_of_the_app("disabled backtrace").is_empty());
    }
}
