//! A topology in a JSON file, read again when it changes:
//! `{"generation": 2, "workers": ["127.0.0.1:7001"], "placement": "modulo"}`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use serde::Deserialize;
use single_state_node::keys::is_loopback;
use single_state_proto::id::Generation;
use single_state_proto::placement::Placement;
use single_state_proto::topology::Topology;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::Offer;

/// Writers write in bursts; the file is read when they were quiet for so long.
const QUIET: Duration = Duration::from_millis(50);
/// The file is read in the middle of a burst that takes longer: neighbours may never be quiet.
const LONGEST_BURST: Duration = Duration::from_millis(300);
/// Not every file system tells of every change, and a folder that was replaced is another one.
const SAFETY_NET: Duration = Duration::from_secs(5);
/// Where the system cannot watch at all. A change takes effect within a second all the same.
const POLL: Duration = Duration::from_millis(500);

/// The file, and what holds for whatever it says.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its placement if it names none.
    pub(crate) placement: Placement,
    /// Whether links may leave this machine.
    pub(crate) beyond_loopback: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    generation: u64,
    workers: Vec<String>,
    placement: Option<String>,
}

impl File {
    /// What it says now.
    pub(crate) fn read(&self) -> Offer {
        let text = std::fs::read_to_string(&self.path).map_err(|error| error.to_string());
        text.and_then(|text| self.parse(&text))
            .map_err(|error| format!("--topology file:{}: {error}", self.path.display()))
    }

    fn parse(&self, text: &str) -> Offer {
        let Document { generation, workers, placement } =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        let placement = match placement {
            Some(name) => name.parse().map_err(|error| format!("placement {name:?}: {error}"))?,
            None => self.placement,
        };
        let topology = Topology::new(Generation(generation), placement, workers);
        let topology = topology.map_err(|error| error.to_string())?;
        let mut addresses = topology.workers().iter();
        match addresses.find(|address| !self.beyond_loopback && !is_loopback(address)) {
            Some(bare) => Err(format!(
                "{bare}: a link beyond loopback needs --link-key-file or --insecure-links"
            )),
            None => Ok(topology),
        }
    }

    /// Offers what it says now and whenever that may have changed, for ever.
    pub(super) async fn watch(self, offer: impl FnMut(Offer)) {
        self.watch_and_look_every(SAFETY_NET, offer).await;
    }

    async fn watch_and_look_every(self, safety_net: Duration, mut offer: impl FnMut(Offer)) {
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        // A file that is replaced is another file, and one of a ConfigMap is a link through a link
        // that is replaced: only the folder sees both.
        let mut folder = Folder::new(path.parent().unwrap_or(Path::new("/")));
        loop {
            // The folder may be another one by now.
            let patience = if folder.watch() { safety_net } else { POLL };
            offer(self.read());
            folder.changes(patience).await;
        }
    }
}

/// A folder in which something may change.
struct Folder {
    path: PathBuf,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
}

impl Folder {
    fn new(path: &Path) -> Self {
        let changed = Arc::new(Notify::new());
        let note = changed.clone();
        // The system's events come on a thread of their own. They are only remembered as "something
        // changed", so they need no queue.
        let on_event = move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
                note.notify_one();
            }
        };
        let config = Config::default().with_follow_symlinks(false);
        let watcher = RecommendedWatcher::new(on_event, config)
            .inspect_err(|error| tracing::warn!(%error, "files cannot be watched, only polled"))
            .ok();
        Self { path: path.to_owned(), changed, watcher }
    }

    /// Whether the system tells of changes. Watching what is watched already does no harm.
    fn watch(&mut self) -> bool {
        let watched = |watcher: &mut RecommendedWatcher| {
            watcher.watch(&self.path, RecursiveMode::NonRecursive).is_ok()
        };
        self.watcher.as_mut().is_some_and(watched)
    }

    /// Waits until something has changed and is quiet again, or until patience ends.
    async fn changes(&self, patience: Duration) {
        if timeout(patience, self.changed.notified()).await.is_err() {
            return;
        }
        let latest = Instant::now() + LONGEST_BURST;
        while timeout(QUIET, self.changed.notified()).await.is_ok() && Instant::now() < latest {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);
    /// Later than any test ends: what is seen has been watched.
    const NEVER: Duration = Duration::from_secs(3600);

    fn at(path: &Path) -> File {
        File { path: path.to_owned(), placement: Placement::Jump, beyond_loopback: false }
    }

    fn document(generation: u64) -> String {
        format!(r#"{{"generation": {generation}, "workers": ["127.0.0.1:7000"]}}"#)
    }

    fn parse(text: &str) -> Offer {
        at(Path::new("unused")).parse(text)
    }

    /// What a file says while `steps` are done to it.
    async fn watched(file: File, steps: impl AsyncFnOnce(&mut UnboundedReceiver<Offer>)) {
        let (offer, mut offers) = unbounded_channel();
        tokio::select! {
            () = file.watch_and_look_every(NEVER, |seen| offer.send(seen).unwrap()) => {}
            () = steps(&mut offers) => {}
        }
    }

    async fn until(offers: &mut UnboundedReceiver<Offer>, is: impl Fn(&Offer) -> bool) {
        let search = async { while !is(&offers.recv().await.unwrap()) {} };
        timeout(DEADLINE, search).await.unwrap();
    }

    async fn until_generation(offers: &mut UnboundedReceiver<Offer>, generation: u64) {
        let is = |offer: &Offer| offer.as_ref().is_ok_and(|t| t.generation().0 == generation);
        until(offers, is).await;
    }

    #[test]
    fn a_document_has_a_generation_workers_and_perhaps_a_placement() {
        let topology = parse(&document(7)).unwrap();
        assert_eq!((topology.generation(), topology.placement()), (Generation(7), Placement::Jump));
        assert_eq!(topology.workers(), ["127.0.0.1:7000"]);
        let text = r#"{"placement": "modulo", "workers": [], "generation": 1}"#;
        let topology = parse(text).unwrap();
        assert_eq!((topology.placement(), topology.workers().len()), (Placement::Modulo, 0));
    }

    #[test]
    fn a_document_with_anything_else_is_told_what_is_wrong() {
        for (text, wrong) in [
            ("", "EOF while parsing"),
            (r#"{"generation": 1, "workers": ["127.0.0."#, "EOF while parsing"),
            (r#"{"generation": 1}"#, "missing field `workers`"),
            (r#"{"workers": []}"#, "missing field `generation`"),
            (r#"{"generation": -1, "workers": []}"#, "invalid value"),
            (r#"{"generation": 1, "workers": [], "worker": 1}"#, "unknown field `worker`"),
            (r#"{"generation": 1, "workers": []} {}"#, "trailing characters"),
            (r#"{"generation": 1, "workers": ["a"]}"#, "worker 0 has the address \"a\""),
            (r#"{"generation": 1, "workers": [], "placement": "ring"}"#, "placement \"ring\": a "),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(wrong), "{text}: {error}");
        }
    }

    #[test]
    fn bare_links_to_other_machines_do_not_come_in_by_a_file() {
        let text = r#"{"generation": 1, "workers": ["127.0.0.1:1", "worker-1:1"]}"#;
        let bare = parse(text).unwrap_err();
        assert!(bare.starts_with("worker-1:1: a link beyond loopback needs"), "{bare}");
        let file = File { beyond_loopback: true, ..at(Path::new("unused")) };
        assert_eq!(file.parse(text).unwrap().workers().len(), 2);
    }

    #[tokio::test]
    async fn a_file_is_seen_to_be_rewritten_replaced_removed_and_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("topology.json");
        fs::write(&path, document(1)).unwrap();
        watched(at(&path), async |offers| {
            until_generation(offers, 1).await;
            fs::write(&path, document(2)).unwrap();
            until_generation(offers, 2).await;
            let other = folder.path().join("other");
            fs::write(&other, document(3)).unwrap();
            fs::rename(other, &path).unwrap();
            until_generation(offers, 3).await;
            fs::remove_file(&path).unwrap();
            let gone = format!("--topology file:{}: No such file", path.display());
            until(offers, |offer| offer.as_ref().is_err_and(|e| e.starts_with(&gone))).await;
            fs::write(&path, document(4)).unwrap();
            until_generation(offers, 4).await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_of_a_config_map_is_seen_to_change_when_its_links_are_swapped() {
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name);
        let publish = |generation: u64| {
            let data = inside(&format!("..{generation}"));
            fs::create_dir(&data).unwrap();
            fs::write(data.join("topology.json"), document(generation)).unwrap();
            symlink(&data, inside("..data_tmp")).unwrap();
            fs::rename(inside("..data_tmp"), inside("..data")).unwrap();
        };
        publish(1);
        symlink("..data/topology.json", inside("topology.json")).unwrap();
        watched(at(&inside("topology.json")), async |offers| {
            until_generation(offers, 1).await;
            for generation in 2..5 {
                publish(generation);
                until_generation(offers, generation).await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_is_seen_again_when_its_folder_was_replaced() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("etc");
        let path = folder.join("topology.json");
        fs::create_dir(&folder).unwrap();
        fs::write(&path, document(1)).unwrap();
        watched(at(&path), async |offers| {
            until_generation(offers, 1).await;
            fs::remove_dir_all(&folder).unwrap();
            until(offers, Result::is_err).await;
            fs::create_dir(&folder).unwrap();
            fs::write(&path, document(2)).unwrap();
            until_generation(offers, 2).await;
        })
        .await;
    }
}
