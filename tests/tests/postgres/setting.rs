//! Stores on a server of the test's own, and the calls that the tests make.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use single_state_proto::id::{Epoch, Generation, Incarnation, SessionId, WorkerIndex};
use single_state_store::{
    Claim, Claimed, Manners, Owner, Save, Saved, Settings, SharedStore, StoreError, Version, open,
};
use single_state_tests::DEADLINE;
use tokio::time::{Instant, sleep};

/// For calls that shall fail by their timeout: short, and still enough for a busy machine to do
/// what it can do.
const SHORT: Duration = Duration::from_secs(1);

pub(crate) const OWNER: Owner = Owner {
    index: WorkerIndex(0),
    incarnation: Incarnation(1),
    generation: Generation(1),
    app_version: 1,
};

pub(crate) fn id(text: &str) -> SessionId {
    text.parse().expect("tests write ids as they are")
}

pub(crate) fn store(url: &str) -> SharedStore {
    open(url, Settings::default()).expect("a URL of the server")
}

pub(crate) fn hasty(url: &str) -> SharedStore {
    open(url, Settings { timeout: SHORT, ..Settings::default() }).expect("a URL of the server")
}

pub(crate) async fn prepared(url: &str) -> Result<SharedStore> {
    let store = store(url);
    store.prepare().await?;
    Ok(store)
}

/// A session that is saved once for each version, each with bytes of its own.
#[derive(Clone)]
pub(crate) struct Saving {
    pub(crate) session: SessionId,
    pub(crate) epoch: Epoch,
    /// The last one that was reported as done.
    pub(crate) done: u64,
}

impl Saving {
    pub(crate) async fn begin(store: &SharedStore, session: &str) -> Result<Self> {
        let session = id(session);
        let claims = [Claim { session: session.clone(), at_least: Epoch(1) }];
        match store.claim(&OWNER, &Manners::default(), &claims).await?.pop() {
            Some(Claimed::Owned(row)) => Ok(Self { session, epoch: row.epoch, done: 0 }),
            other => bail!("{session} was not claimed: {other:?}"),
        }
    }

    pub(crate) fn state(&self, version: u64) -> Bytes {
        format!("{}, version {version}", self.session).into()
    }

    /// The save that comes next; the same bytes until it is done.
    pub(crate) fn next(&self) -> Save {
        let version = self.done + 1;
        Save {
            session: self.session.clone(),
            epoch: self.epoch,
            version: Version(version),
            codec: 1,
            state: self.state(version),
            wake_at: None,
            // Every other one is a transaction of several statements.
            kept: if version.is_multiple_of(2) {
                vec![("input".to_owned(), Some(self.state(version)))]
            } else {
                Vec::new()
            },
            first: false,
        }
    }

    pub(crate) async fn save(&mut self, store: &SharedStore) -> Result<(), StoreError> {
        assert_eq!(store.save(&OWNER, &[self.next()]).await?, [Saved::Done]);
        self.done += 1;
        Ok(())
    }

    /// Repeats a save until its outcome is known.
    pub(crate) async fn save_in_the_end(&mut self, store: &SharedStore) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        while let Err(error) = self.save(store).await {
            must_be_away(&error)?;
            if Instant::now() > deadline {
                bail!("a save fails again and again: {error}");
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Saves until it fails as away; with what sentence.
    pub(crate) async fn save_until_away(&mut self, store: &SharedStore) -> Result<String> {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Err(error) = self.save(store).await {
                return must_be_away(&error);
            }
        }
        bail!("saves go on")
    }

    /// What is stored is what was reported, or the one save whose outcome is not known.
    pub(crate) async fn check(&self, store: &SharedStore) -> Result<()> {
        let shown = store.show(&self.session).await?;
        let (listed, state) = shown.with_context(|| format!("{} is gone", self.session))?;
        let Version(version) = listed.version;
        assert!([self.done, self.done + 1].contains(&version), "{version}, not {}", self.done);
        assert_eq!(state, if version == 0 { Bytes::new() } else { self.state(version) });
        let kept = store.kept(&self.session, "input").await?;
        let even = version - version % 2;
        assert_eq!(kept, (even > 0).then(|| self.state(even)));
        Ok(())
    }
}

/// The sentence of an error that passes by itself; it repeats no password.
pub(crate) fn must_be_away(error: &StoreError) -> Result<String> {
    let text = error.to_string();
    assert!(!text.contains("hunter2"), "{text}");
    match error {
        StoreError::Away(_) => Ok(text),
        StoreError::Unusable(_) => bail!("away was expected, not unusable: {text}"),
    }
}

/// The sentence of an error that an operator must see; it repeats no password.
pub(crate) fn must_be_unusable<T>(answer: Result<T, StoreError>) -> Result<String> {
    match answer {
        Err(StoreError::Unusable(text)) => {
            assert!(!text.contains("hunter2"), "{text}");
            Ok(text)
        }
        Err(StoreError::Away(text)) => bail!("unusable was expected, not away: {text}"),
        Ok(_) => bail!("unusable was expected, and it was done"),
    }
}

/// Waits for a condition that nobody announces.
pub(crate) async fn wait_until(
    what: &str,
    mut is_so: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !is_so().await? {
        if Instant::now() > deadline {
            bail!("in vain waited until {what}");
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
