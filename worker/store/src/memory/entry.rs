//! One row in memory: what each change makes of it. Judges nothing: who may change it is decided by
//! the store.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use single_state_proto::id::{Epoch, Generation, Incarnation, SessionId, WorkerIndex};

use super::cut_to_minute;
use crate::{Holder, Listed, Owner, Row, Save, Version};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) epoch: Epoch,
    pub(super) generation: Generation,
    pub(super) owner: Option<(WorkerIndex, Incarnation)>,
    /// The owner before this one did not give it up.
    pub(super) unreleased: bool,
    pub(super) version: Version,
    pub(super) app_version: u32,
    pub(super) codec: u16,
    pub(super) strikes: u16,
    pub(super) state: Bytes,
    pub(super) wake_at: Option<SystemTime>,
    pub(super) updated_at: SystemTime,
    pub(super) kept: BTreeMap<String, Bytes>,
}

impl Entry {
    pub(super) fn new(owner: &Owner, epoch: Epoch) -> Self {
        Self {
            epoch,
            generation: owner.generation,
            owner: Some((owner.index, owner.incarnation)),
            unreleased: false,
            version: Version(0),
            app_version: 0,
            codec: 0,
            strikes: 0,
            state: Bytes::new(),
            wake_at: None,
            updated_at: SystemTime::now(),
            kept: BTreeMap::new(),
        }
    }

    pub(super) fn holder(&self) -> Holder {
        Holder {
            owner: self.owner.map(|(index, _)| index),
            app_version: self.app_version,
            generation: self.generation,
        }
    }

    pub(super) fn row(&self) -> Row {
        Row {
            epoch: self.epoch,
            version: self.version,
            app_version: self.app_version,
            codec: self.codec,
            strikes: self.strikes,
            unreleased: self.unreleased,
            state: Some(self.state.clone()),
        }
    }

    pub(super) fn listed(&self, session: &SessionId) -> Listed {
        Listed {
            session: session.clone(),
            owner: self.owner.map(|(index, _)| index),
            epoch: self.epoch,
            version: self.version,
            app_version: self.app_version,
            codec: self.codec,
            strikes: self.strikes,
            bytes: self.state.len() as u64,
            wake_at: self.wake_at,
            updated_at: self.updated_at,
        }
    }

    pub(super) fn commit(&mut self, owner: &Owner, save: &Save) {
        self.version = save.version;
        self.app_version = owner.app_version;
        self.codec = save.codec;
        self.state = save.state.clone();
        self.strikes = 0;
        self.wake_at = save.wake_at.map(cut_to_minute);
        self.updated_at = SystemTime::now();
        for (name, bytes) in &save.kept {
            match bytes {
                Some(bytes) => self.kept.insert(name.clone(), bytes.clone()),
                None => self.kept.remove(name),
            };
        }
    }

    /// Raises the epoch, so that whoever had the session brings nothing back.
    pub(super) fn empty(&mut self) {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.owner = None;
        self.unreleased = false;
        self.version = Version(0);
        self.app_version = 0;
        self.codec = 0;
        self.strikes = 0;
        self.state = Bytes::new();
        self.wake_at = None;
        self.updated_at = SystemTime::now();
        self.kept.clear();
    }

    /// Lets anybody have it, also a worker that knows only an older topology.
    pub(super) fn free(&mut self) {
        self.owner = None;
        self.generation = Generation(0);
        self.strikes = 0;
        self.updated_at = SystemTime::now();
    }

    /// Whether this is what ending the ownership `epoch` leaves behind.
    pub(super) fn is_tombstone_after(&self, epoch: Epoch) -> bool {
        self.epoch.0 == epoch.0 + 1 && self.owner.is_none() && self.version == Version(0)
    }

    pub(super) fn is_unused(&self, now: SystemTime, unused_for: Duration) -> bool {
        let limit = if self.owner.is_some() { unused_for.saturating_mul(2) } else { unused_for };
        let idle = now.duration_since(self.updated_at);
        self.wake_at.is_none() && idle.is_ok_and(|idle| idle >= limit)
    }
}
