//! How rows end, and what operators see and do.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use bytes::Bytes;
use single_state_proto::id::{Epoch, Generation, SessionId, WorkerIndex};
use single_state_store::{Claimed, Save, Saved, Standing, Version};

use crate::place::{Place, Worker, id, save};

async fn is_empty_and_free(worker: &Worker, session: &SessionId) -> Result<()> {
    let (listed, state) = worker.look(session).await?;
    assert_eq!((listed.owner, listed.version), (None, Version(0)));
    assert_eq!((listed.strikes, listed.wake_at, listed.bytes), (0, None, 0));
    assert_eq!(state, Bytes::new());
    Ok(())
}

pub(crate) async fn a_deleted_session_is_not_brought_back_by_its_owner(
    place: &Place,
) -> Result<()> {
    let (mut one, two) = (place.worker(1).await?, place.worker(2).await?);
    one.owner.app_version = 5;
    let session = id("s");
    let epoch = one.begin(&session, "first").await?;
    let wakes = Save { wake_at: Some(SystemTime::now()), ..save(&session, epoch, 2, "second") };
    one.save_one(wakes).await?;
    one.strike(&[(session.clone(), epoch)]).await?;
    assert_eq!(one.delete(&session, epoch).await?, Saved::Done);
    is_empty_and_free(&two, &session).await?;
    // The answer was lost: the second try finds it done.
    assert_eq!(one.delete(&session, epoch).await?, Saved::Done);
    assert_eq!(one.save_one(save(&session, epoch, 3, "late")).await?, Saved::Fenced);
    let first = Save { first: true, ..save(&session, epoch, 3, "late") };
    assert_eq!(one.save_one(first).await?, Saved::Fenced);
    is_empty_and_free(&two, &session).await?;
    // Nothing of the newer app is left that the older one could not read.
    let Claimed::Owned(row) = two.ask(&session).await? else { panic!("it is nobody's") };
    assert_eq!((row.version, row.unreleased, row.state), (Version(0), false, Some(Bytes::new())));
    assert!(row.epoch > epoch);
    assert_eq!(one.delete(&session, epoch).await?, Saved::Fenced);
    assert_eq!(two.standing(&session, row.epoch).await?, Standing::Owned);
    Ok(())
}

pub(crate) async fn only_the_owner_deletes(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    let epoch = one.begin(&session, "first").await?;
    let later = two.take(&session).await?.epoch;
    assert_eq!(one.delete(&session, epoch).await?, Saved::Fenced);
    assert_eq!(two.delete(&session, Epoch(later.0 + 9)).await?, Saved::Regressed);
    assert_eq!(two.delete(&id("missing"), later).await?, Saved::Regressed);
    assert_eq!(two.state(&session).await?, "first");
    Ok(())
}

pub(crate) async fn a_discarded_session_begins_from_nothing(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    let epoch = one.begin(&session, "first").await?;
    one.strike(&[(session.clone(), epoch)]).await?;
    assert!(two.discard(&session).await?);
    is_empty_and_free(&two, &session).await?;
    assert_eq!(one.standing(&session, epoch).await?, Standing::Fenced);
    assert_eq!(one.save_one(save(&session, epoch, 9, "late")).await?, Saved::Fenced);
    let row = two.take(&session).await?;
    assert_eq!((row.version, row.state), (Version(0), Some(Bytes::new())));
    assert_eq!(two.save_one(save(&session, row.epoch, 1, "new")).await?, Saved::Done);
    assert!(!two.discard(&id("missing")).await?);
    assert_eq!(two.show(&id("missing")).await?, None);
    Ok(())
}

pub(crate) async fn a_freed_session_is_anybodys_with_its_state(place: &Place) -> Result<()> {
    let (mut one, two) = (place.worker(1).await?, place.worker(2).await?);
    one.owner.generation = Generation(7);
    let session = id("s");
    let epoch = one.begin(&session, "first").await?;
    one.strike(&[(session.clone(), epoch)]).await?;
    assert!(two.free(&session).await?);
    let Claimed::Owned(row) = two.ask(&session).await? else { panic!("it is nobody's") };
    assert_eq!((row.strikes, row.version, row.unreleased), (0, Version(1), false));
    assert_eq!(row.state, Some("first".into()));
    assert!(!two.free(&id("missing")).await?);
    Ok(())
}

pub(crate) async fn rows_are_listed_in_order_by_pages(place: &Place) -> Result<()> {
    let worker = place.worker(1).await?;
    assert_eq!(worker.list(None, 10).await?, []);
    // Order is that of bytes, as placement's: capitals, underscore, small letters.
    let sorted = ["-", "0", "A", "Z", "_", "a", "aa", "b"];
    for name in ["b", "Z", "_", "aa", "0", "-", "a", "A"] {
        worker.begin(&id(name), "state").await?;
    }
    let names = |rows: Vec<single_state_store::Listed>| -> Vec<String> {
        rows.into_iter().map(|row| row.session.to_string()).collect()
    };
    assert_eq!(names(worker.list(None, 100).await?), sorted);
    let mut found = Vec::new();
    loop {
        let after = found.last().map(|name: &String| id(name));
        let page = names(worker.list(after.as_ref(), 3).await?);
        found.extend(page.iter().cloned());
        assert!(found.len() <= sorted.len(), "pages repeat: {found:?}");
        if page.len() < 3 {
            break;
        }
    }
    assert_eq!(found, sorted);
    assert_eq!(worker.list(Some(&id("b")), 100).await?, []);
    Ok(())
}

pub(crate) async fn a_row_is_shown_without_touching_it(place: &Place) -> Result<()> {
    let worker = place.worker(3).await?;
    let session = id("s");
    let before = SystemTime::now() - Duration::from_secs(1);
    let epoch = worker.begin(&session, "state").await?;
    let shown = worker.look(&session).await?;
    assert_eq!(worker.list(None, 1).await?, std::slice::from_ref(&shown.0));
    assert_eq!((shown.0.owner, shown.0.epoch), (Some(WorkerIndex(3)), epoch));
    assert_eq!((shown.0.bytes, shown.0.wake_at), (5, None));
    assert!(shown.0.updated_at > before && shown.0.updated_at <= SystemTime::now());
    assert_eq!(worker.look(&session).await?, shown);
    assert_eq!(worker.standing(&session, epoch).await?, Standing::Owned);
    Ok(())
}

pub(crate) async fn rows_expire_up_to_a_limit_unless_they_have_work(place: &Place) -> Result<()> {
    let worker = place.worker(1).await?;
    for n in 0..6 {
        let session = id(&format!("s{n}"));
        let epoch = worker.take(&session).await?.epoch;
        let wake_at = (n == 0).then(SystemTime::now);
        worker.save_one(Save { wake_at, ..save(&session, epoch, 1, "x") }).await?;
        if n < 5 {
            worker.give_up(&session, epoch).await?;
        }
    }
    assert_eq!(worker.expire(Duration::from_secs(3600), 10).await?, 0);
    assert_eq!(worker.expire(Duration::MAX, 10).await?, 0);
    assert_eq!(worker.expire(Duration::ZERO, 2).await?, 2);
    assert_eq!(worker.expire(Duration::ZERO, 10).await?, 3);
    assert_eq!(worker.expire(Duration::ZERO, 10).await?, 0);
    let left = worker.list(None, 10).await?;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].session, id("s0"));
    Ok(())
}

/// An owner that has not been heard of for as long may be quiet; for twice as long it is dead.
pub(crate) async fn a_row_with_an_owner_expires_after_twice_as_long(place: &Place) -> Result<()> {
    let worker = place.worker(1).await?;
    loop {
        let begun = SystemTime::now();
        worker.begin(&id("owned"), "x").await?;
        let epoch = worker.begin(&id("released"), "x").await?;
        worker.give_up(&id("released"), epoch).await?;
        let released_at = worker.look(&id("released")).await?.0.updated_at;
        let age = || SystemTime::now().duration_since(released_at).unwrap_or_default();
        while age() < Duration::from_millis(40) {
            tokio::task::yield_now().await;
        }
        let unused_for = age() * 4 / 5;
        let expired = worker.expire(unused_for, 10).await?;
        // On a machine that is busy enough, the quiet owner is dead by now as well.
        if begun.elapsed()? < unused_for * 2 {
            assert_eq!(expired, 1);
            assert_eq!(worker.show(&id("released")).await?, None);
            assert!(worker.show(&id("owned")).await?.is_some());
            return Ok(());
        }
    }
}
