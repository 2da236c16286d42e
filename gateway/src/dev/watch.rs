//! Waits until the workers' program, or the sources, have changed and are quiet again.
//!
//! The system's events come on a thread of their own. They are only remembered as "something
//! changed, last this path", so they need no queue, however many there are.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// Builds and editors write in bursts; a change counts when it was quiet for so long.
const QUIET: Duration = Duration::from_millis(300);
/// Folders of products, not of sources, wherever they lie.
const PRODUCTS: [&str; 2] = ["target", "node_modules"];
/// How editors name what is no source: backups, swap files, files on their way to their name.
const SCRATCH: [&str; 7] = ["~", ".swp", ".swx", ".tmp", ".temp", ".bak", ".orig"];
/// vim tries with a file of this name whether it may write in a folder.
const VIM_PROBE: &str = "4913";

/// Changes of one kind, from now on.
#[derive(Debug)]
pub(crate) struct Watch {
    watcher: RecommendedWatcher,
    changes: Changes,
    of: Of,
}

#[derive(Debug)]
enum Of {
    Program { path: PathBuf, folder: PathBuf },
    Sources(Sources),
}

/// The path that changed last; none yet.
#[derive(Debug)]
struct Changes(watch::Receiver<Option<PathBuf>>);

impl Watch {
    /// Of one file, also when it is replaced: so its folder is watched.
    pub(crate) fn program(path: &Path) -> notify::Result<Self> {
        let path = resolved(path);
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let counts = path.clone();
        let (mut watcher, changes) = watcher(move |changed| changed == counts)?;
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        Ok(Self { watcher, changes, of: Of::Program { path, folder } })
    }

    /// Of all sources below `root`: not of products, dot files, the folders of `others` and the
    /// workers' `program`, which a build might put there.
    pub(crate) fn sources(
        root: &Path,
        others: &[PathBuf],
        program: Option<&Path>,
    ) -> notify::Result<Self> {
        let sources = Sources {
            root: fs::canonicalize(root)?,
            ignored: others.iter().map(PathBuf::as_path).chain(program).map(resolved).collect(),
            folders: BTreeMap::new(),
        };
        let judge = sources.clone();
        let (mut watcher, changes) = watcher(move |path| judge.is_source(path))?;
        watcher.watch(&sources.root, RecursiveMode::NonRecursive)?;
        let mut watch = Self { watcher, changes, of: Of::Sources(sources) };
        watch.follow_new_folders()?;
        Ok(watch)
    }

    /// Waits for a change and the quiet after it; returns the path that changed last.
    pub(crate) async fn settled(&mut self) -> PathBuf {
        let changed = self.changes.settled().await;
        match &self.of {
            Of::Program { path, folder } => {
                let was_missing = !path.exists();
                while !path.exists() {
                    sleep(QUIET).await;
                }
                // Its folder may be another one by now, after a `cargo clean`.
                let _ = self.watcher.watch(folder, RecursiveMode::NonRecursive);
                if was_missing {
                    self.changes.quiet().await;
                }
            }
            // A folder that vanished again is no reason to stop watching the others.
            Of::Sources(_) => drop(self.follow_new_folders()),
        }
        changed
    }

    /// Watches each top-level folder by itself, so that those of products are never watched: there
    /// are too many files in them. Folders that came or were replaced since are added.
    fn follow_new_folders(&mut self) -> notify::Result<()> {
        let Of::Sources(sources) = &mut self.of else { return Ok(()) };
        // Not every file system says when a folder was made.
        sources.folders.retain(|path, _| path.is_dir());
        for entry in fs::read_dir(&sources.root)? {
            let entry = entry?;
            let path = entry.path();
            if !entry.file_type()?.is_dir() || !sources.is_source(&path) {
                continue;
            }
            let metadata = entry.metadata()?;
            let identity = (metadata.ino(), metadata.created().ok());
            if sources.folders.get(&path) != Some(&identity) {
                self.watcher.watch(&path, RecursiveMode::Recursive)?;
                sources.folders.insert(path, identity);
            }
        }
        Ok(())
    }
}

impl Changes {
    async fn settled(&mut self) -> PathBuf {
        if self.0.changed().await.is_err() {
            // The watcher is gone: nothing will ever change.
            std::future::pending::<()>().await;
        }
        self.quiet().await;
        self.0.borrow_and_update().clone().unwrap_or_default()
    }

    async fn quiet(&mut self) {
        while let Ok(Ok(())) = timeout(QUIET, self.0.changed()).await {}
    }
}

/// A watcher that notes changes of the paths that `counts`.
fn watcher(
    counts: impl Fn(&Path) -> bool + Send + 'static,
) -> notify::Result<(RecommendedWatcher, Changes)> {
    let (changed, changes) = watch::channel(None);
    let note = move |event: notify::Result<Event>| {
        // An error of the watch is no change; there is nothing to be done about it either.
        let Ok(event) = event else { return };
        if let Some(path) = changed_path(event, &counts) {
            changed.send_replace(Some(path));
        }
    };
    let config = Config::default().with_follow_symlinks(false);
    Ok((RecommendedWatcher::new(note, config)?, Changes(changes)))
}

/// The path that counts in this event, if any does: of a renamed file the new one. When the system
/// lost events, any may.
fn changed_path(event: Event, counts: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    if event.need_rescan() {
        return Some(PathBuf::from("something"));
    }
    match event.kind {
        EventKind::Access(_) => None,
        _ => event.paths.into_iter().rfind(|path| counts(path)),
    }
}

/// A folder that was removed and made anew is another one, whose watch is yet to be set; it may well
/// get the inode of the old one.
type FolderIdentity = (u64, Option<SystemTime>);

/// What belongs to the sources.
#[derive(Debug, Clone)]
struct Sources {
    root: PathBuf,
    ignored: Vec<PathBuf>,
    /// The top-level folders that are watched.
    folders: BTreeMap<PathBuf, FolderIdentity>,
}

impl Sources {
    fn is_source(&self, path: &Path) -> bool {
        let Ok(inside) = path.strip_prefix(&self.root) else { return false };
        let is_ignored = self.ignored.iter().any(|ignored| path.starts_with(ignored));
        let mut names = inside.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        });
        !is_ignored && inside != Path::new("") && !names.any(is_no_source_name)
    }
}

fn is_no_source_name(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with(['.', '#'])
        || name == VIM_PROBE
        || PRODUCTS.contains(&name.as_ref())
        || SCRATCH.iter().any(|ending| name.ends_with(ending))
}

/// The path as events name it: absolute, symbolic links in its folder followed. The file itself may
/// be missing or a link.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (path.parent().map(fs::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{AccessKind, Flag, ModifyKind, RenameMode};

    /// The sources of a folder that does not exist.
    fn sources() -> Sources {
        let ignored = vec!["/project/data".into(), "/project/bin/worker".into()];
        Sources { root: "/project".into(), ignored, folders: BTreeMap::new() }
    }

    #[test]
    fn code_manifests_and_other_files_are_sources() {
        for path in ["src/main.rs", "Cargo.toml", "a/b/c/page.html", "bin/other", "src"] {
            assert!(sources().is_source(&Path::new("/project").join(path)), "{path}");
        }
    }

    #[test]
    fn products_data_dot_files_and_editor_files_are_no_sources() {
        let paths = [
            "target/debug/worker",
            "crate/target/debug",
            "web/node_modules/a.js",
            ".git/index",
            "src/.main.rs.swp",
            "src/main.rs~",
            "src/#main.rs#",
            "src/4913",
            "src/save.tmp",
            "data/sessions.db",
            "bin/worker",
            "",
        ];
        for path in paths {
            assert!(!sources().is_source(&Path::new("/project").join(path)), "{path}");
        }
        assert!(!sources().is_source(Path::new("/elsewhere/main.rs")));
    }

    #[test]
    fn reading_is_no_change_but_lost_events_may_hide_one() {
        let event = |kind| Event::new(kind).add_path("/project/a.rs".into());
        let counts = |event| changed_path(event, |path| sources().is_source(path)).is_some();
        assert!(counts(event(EventKind::Any)));
        assert!(!counts(event(EventKind::Access(AccessKind::Read))));
        assert!(counts(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
    }

    #[test]
    fn a_file_that_was_saved_under_another_name_first_is_named_as_it_is() {
        let kind = EventKind::Modify(ModifyKind::Name(RenameMode::Both));
        let event = Event::new(kind).add_path("/project/x1".into()).add_path("/project/a".into());
        let changed = changed_path(event, |path| sources().is_source(path));
        assert_eq!(changed.as_deref(), Some(Path::new("/project/a")));
    }

    #[tokio::test]
    async fn a_burst_of_changes_counts_once_and_only_when_it_is_quiet() {
        let (changed, changes) = watch::channel(None);
        let mut changes = Changes(changes);
        let burst = async {
            for _ in 0..40 {
                changed.send_replace(Some(PathBuf::from("first")));
                tokio::time::sleep(QUIET / 30).await;
            }
            changed.send_replace(Some(PathBuf::from("last")));
            tokio::time::Instant::now()
        };
        // The burst first: however slow the machine, it is not quiet while that is due.
        let (last, path) = tokio::join!(biased; burst, changes.settled());
        assert_eq!(path, Path::new("last"));
        assert!(last.elapsed() >= QUIET);
        assert!(!changes.0.has_changed().unwrap());
    }

    #[tokio::test]
    async fn a_replaced_program_is_seen_and_its_neighbours_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker");
        fs::write(&path, "one").unwrap();
        let mut watch = Watch::program(&path).unwrap();
        fs::write(folder.path().join("neighbour"), "two").unwrap();
        fs::rename(folder.path().join("neighbour"), &path).unwrap();
        assert_eq!(watch.settled().await, resolved(&path));
    }

    #[tokio::test]
    async fn a_program_is_seen_again_after_its_folder_was_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("debug/worker");
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, "one").unwrap();
        let mut watch = Watch::program(&path).unwrap();
        for _ in 0..2 {
            fs::remove_dir_all(path.parent().unwrap()).unwrap();
            let build_later = async {
                sleep(2 * QUIET).await;
                fs::create_dir(path.parent().unwrap()).unwrap();
                fs::write(&path, "two").unwrap();
            };
            tokio::join!(watch.settled(), build_later);
            assert_eq!(fs::read(&path).unwrap(), b"two");
            fs::write(&path, "three").unwrap();
            watch.settled().await;
        }
    }

    #[tokio::test]
    async fn folders_that_come_later_are_watched_too() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let mut watch = Watch::sources(&root, &[root.join("data")], None).unwrap();
        for _ in 0..2 {
            fs::create_dir(root.join("crate")).unwrap();
            assert_eq!(watch.settled().await, root.join("crate"));
            let file = root.join("crate/lib.rs");
            fs::write(&file, "").unwrap();
            assert_eq!(watch.settled().await, file);
            fs::remove_dir_all(root.join("crate")).unwrap();
            watch.settled().await;
        }
    }

    #[test]
    fn folders_of_products_are_never_watched() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["src", "target", "node_modules", ".git", "data"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        let watch = Watch::sources(&root, &[root.join("data")], None).unwrap();
        let Of::Sources(sources) = watch.of else { panic!("it watches sources") };
        let folders: Vec<_> = sources.folders.into_keys().collect();
        assert_eq!(folders, [root.join("src")]);
    }
}
