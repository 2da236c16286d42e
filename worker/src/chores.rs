//! What a worker does by itself, all the time: idle sessions leave memory, sessions with work due
//! come into it, rows that nobody has used for long are deleted.

use std::rc::Rc;
use std::time::Duration;

use single_state_proto::id::Generation;
use single_state_store::{Due, MAX_BATCH};
use tokio::time::Instant;

use crate::registry::Registry;
use crate::resident::{Leave, Resident};

/// How often sessions with work due are looked for (R8).
const WAKE_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is looked whether sessions that belong elsewhere have lost their tabs.
const HAND_BACK_INTERVAL: Duration = Duration::from_secs(5);
/// How often the process's memory is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);
/// How often rows that nobody uses are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);
/// Sessions that are looked at before others are served again.
const AT_ONCE: usize = 1024;
/// Rows of one call.
const PAGE: usize = MAX_BATCH;
/// A session that was used within this time stays, however short memory is.
const IN_USE: Duration = Duration::from_secs(2);
/// The least share of the sessions that leave at a time when memory is short, …
const EVICTED_SHARE: usize = 20;
/// … and the least number.
const EVICTED: usize = 64;

/// When sessions leave memory, and rows the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetimes {
    /// A session without tabs leaves memory when nothing has happened for so long; zero: never.
    pub(crate) idle: Duration,
    /// Bytes of the process beyond which the longest idle sessions leave memory; 0: any.
    pub(crate) memory_budget: u64,
    /// A row that was not used for so long is deleted; zero: never.
    pub(crate) session: Duration,
}

/// Lets idle sessions leave memory, for ever.
pub(crate) async fn passivate(registry: Rc<Registry>, idle: Duration) {
    if idle.is_zero() {
        return;
    }
    let interval = (idle / 10).clamp(Duration::from_millis(100), Duration::from_secs(10));
    loop {
        tokio::time::sleep(interval).await;
        for some in registry.residents().chunks(AT_ONCE) {
            for resident in some.iter().filter(|resident| resident.tabs() == 0) {
                let since = resident.idle_since(idle);
                if since.is_some_and(|since| since.elapsed() >= idle) && registry.has(resident) {
                    registry.passivate(resident, Leave::Idle);
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Keeps the process within its memory budget, for ever: sessions without tabs leave, of others the
/// app's state does.
pub(crate) async fn keep_budget(registry: Rc<Registry>, budget: u64) {
    if budget == 0 {
        return;
    }
    loop {
        tokio::time::sleep(MEMORY_INTERVAL).await;
        match resident_bytes() {
            Some(bytes) if bytes > budget => evict(&registry, bytes, budget),
            _ => {}
        }
    }
}

fn evict(registry: &Rc<Registry>, bytes: u64, budget: u64) {
    let residents = registry.residents();
    let mut idle: Vec<(bool, Instant, &Rc<Resident>)> = Vec::new();
    for resident in residents.iter().filter(|resident| !resident.is_asleep()) {
        let since = resident.idle_since(WAKE_INTERVAL).filter(|since| since.elapsed() >= IN_USE);
        idle.extend(since.map(|since| (resident.tabs() > 0, since, resident)));
    }
    // Those without tabs first, then those that have been idle for longest.
    idle.sort_by_key(|(has_tabs, since, _)| (*has_tabs, *since));
    let count = (residents.len() / EVICTED_SHARE).max(EVICTED);
    tracing::debug!(bytes, budget, sessions = count.min(idle.len()), "memory is short");
    for (has_tabs, _, resident) in idle.into_iter().take(count) {
        if has_tabs {
            registry.sleep(resident);
        } else {
            registry.passivate(resident, Leave::Memory);
        }
    }
}

/// What the process has in memory; `None` where the system does not tell.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Wakes sessions of this worker that have work due and no owner, for ever (R8).
pub(crate) async fn wake_due(registry: Rc<Registry>) {
    loop {
        tokio::time::sleep(WAKE_INTERVAL).await;
        registry.tidy();
        // Until some gateway has told where sessions belong, none is known to be ours.
        if registry.map.generation() == Generation(0) {
            continue;
        }
        let mut after = None;
        while let Some(page) = due(&registry, after.take()).await {
            after = Some(page);
        }
    }
}

/// Wakes what is ours of one page; the page's last row if there may be more.
async fn due(registry: &Rc<Registry>, after: Option<Due>) -> Option<Due> {
    let (map, host) = (&registry.map, &registry.host);
    let (owner, now, skipped) = (host.ownership.owner(), host.clock.now(), map.skipped());
    let page = match host.store.due(&owner, &skipped.down, now, after.as_ref(), PAGE).await {
        Ok(page) => page,
        Err(error) => {
            tracing::debug!(%error, "look for sessions with work due");
            return None;
        }
    };
    for due in &page {
        if map.belongs_here(&due.session, &skipped) == Some(true) {
            registry.wake(due.session.clone(), skipped.clone());
        }
    }
    (page.len() == PAGE).then(|| page.into_iter().next_back()).flatten()
}

/// Hands back sessions that nobody uses here and that belong to other workers since the topology
/// changed, for ever. Those with tabs are recalled by the tabs' gateways, or lose their tabs: until
/// none of them is left, it is looked again.
pub(crate) async fn hand_back(registry: Rc<Registry>) {
    if registry.host.rules.ephemeral {
        return;
    }
    loop {
        registry.map.changed.notified().await;
        loop {
            let skipped = registry.map.skipped();
            let is_strange = |resident: &Resident| {
                registry.map.belongs_here(&resident.id, &skipped) == Some(false)
            };
            let goes = |resident: &Resident| is_strange(resident) && resident.tabs() == 0;
            registry.hand_over(Leave::Reshard, None, goes).await;
            if !registry.residents().iter().any(|resident| is_strange(resident)) {
                break;
            }
            tokio::time::sleep(HAND_BACK_INTERVAL).await;
        }
    }
}

/// Deletes rows that nobody has used for so long, for ever: a few at a time, since the store looks
/// through a part of its rows with each call.
pub(crate) async fn expire(registry: Rc<Registry>, lifetime: Duration) {
    if lifetime.is_zero() {
        return;
    }
    loop {
        tokio::time::sleep(EXPIRY_INTERVAL).await;
        match registry.host.store.expire(lifetime, PAGE).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(sessions = rows, "deleted what was not used for so long"),
            Err(error) => tracing::debug!(%error, "delete unused sessions"),
        }
    }
}
