//! Who gets a session when it is asked for.

use anyhow::Result;
use bytes::Bytes;
use single_state_proto::id::{Epoch, Generation, Incarnation, SessionId, WorkerIndex};
use single_state_store::{
    Claimed, Holder, MAX_BATCH, Manners, Row, Saved, Standing, StoreError, Version,
};

use crate::place::{FORCE, POLITE, Place, Worker, claim, id, save};

fn owned(claimed: Claimed) -> Row {
    match claimed {
        Claimed::Owned(row) => row,
        Claimed::Held(holder) => panic!("held: {holder:?}"),
    }
}

fn held(claimed: Claimed) -> Holder {
    match claimed {
        Claimed::Owned(row) => panic!("owned: {row:?}"),
        Claimed::Held(holder) => holder,
    }
}

pub(crate) async fn a_new_row_begins_empty_at_the_epoch_that_was_asked_for(
    place: &Place,
) -> Result<()> {
    let row = owned(place.worker(0).await?.ask(&id("new")).await?);
    assert_eq!((row.epoch, row.version), (Epoch(100), Version(0)));
    assert_eq!((row.app_version, row.strikes, row.unreleased), (0, 0, false));
    assert_eq!(row.state, Some(Bytes::new()));
    Ok(())
}

pub(crate) async fn each_claim_raises_the_epoch_at_least_to_what_was_asked_for(
    place: &Place,
) -> Result<()> {
    let worker = place.worker(0).await?;
    let session = id("s");
    for (at_least, epoch) in [(100, 100), (1, 101), (101, 102), (500, 500), (500, 501)] {
        let row = owned(worker.claim_one(&FORCE, claim(&session, at_least)).await?);
        assert_eq!(row.epoch, Epoch(epoch), "at least {at_least}");
    }
    Ok(())
}

pub(crate) async fn a_claim_finds_the_last_snapshot(place: &Place) -> Result<()> {
    let (one, mut two) = (place.worker(1).await?, place.worker(2).await?);
    two.owner.app_version = 3;
    let session = id("s");
    let epoch = one.begin(&session, "first").await?;
    one.save_one(save(&session, epoch, 5, "fifth")).await?;
    let row = two.take(&session).await?;
    assert_eq!(row.epoch, Epoch(epoch.0 + 1));
    assert_eq!((row.version, row.app_version, row.codec), (Version(5), 1, 7));
    assert_eq!(row.state, Some("fifth".into()));
    Ok(())
}

pub(crate) async fn a_live_owner_keeps_its_session(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    let epoch = one.begin(&session, "mine").await?;
    let holder = held(two.ask(&session).await?);
    let expected =
        Holder { owner: Some(WorkerIndex(1)), app_version: 1, generation: Generation(1) };
    assert_eq!(holder, expected);
    assert_eq!(one.standing(&session, epoch).await?, Standing::Owned);
    assert_eq!(one.save_one(save(&session, epoch, 2, "still mine")).await?, Saved::Done);
    Ok(())
}

pub(crate) async fn a_session_of_a_worker_that_is_down_is_taken(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    one.begin(&session, "mine").await?;
    let others = Manners { down: vec![WorkerIndex(0), WorkerIndex(3)], force: false };
    held(two.claim_one(&others, claim(&session, 100)).await?);
    let it = Manners { down: vec![WorkerIndex(0), WorkerIndex(1)], force: false };
    assert!(owned(two.claim_one(&it, claim(&session, 100)).await?).unreleased);
    Ok(())
}

pub(crate) async fn a_restarted_worker_takes_its_own_sessions_back(place: &Place) -> Result<()> {
    let mut worker = place.worker(1).await?;
    let session = id("s");
    worker.begin(&session, "mine").await?;
    worker.owner.incarnation = Incarnation(2);
    let row = owned(worker.ask(&session).await?);
    assert!(row.unreleased);
    assert_eq!(row.state, Some("mine".into()));
    Ok(())
}

pub(crate) async fn force_takes_from_a_live_owner(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    let epoch = one.begin(&session, "mine").await?;
    assert!(owned(two.claim_one(&FORCE, claim(&session, 100)).await?).unreleased);
    assert_eq!(one.standing(&session, epoch).await?, Standing::Fenced);
    assert_eq!(two.look(&session).await?.0.owner, Some(WorkerIndex(2)));
    Ok(())
}

pub(crate) async fn a_released_session_is_anybodys_and_not_unreleased(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    let epoch = one.begin(&session, "mine").await?;
    one.give_up(&session, epoch).await?;
    assert_eq!(two.look(&session).await?.0.owner, None);
    let row = owned(two.ask(&session).await?);
    assert!(!row.unreleased);
    assert_eq!(row.state, Some("mine".into()));
    Ok(())
}

pub(crate) async fn who_lost_a_session_releases_nothing(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    let epoch = one.begin(&session, "mine").await?;
    two.take(&session).await?;
    one.give_up(&session, epoch).await?;
    assert_eq!(two.look(&session).await?.0.owner, Some(WorkerIndex(2)));
    Ok(())
}

pub(crate) async fn what_a_newer_app_wrote_is_never_taken_by_an_older_one(
    place: &Place,
) -> Result<()> {
    let (mut new, old) = (place.worker(1).await?, place.worker(2).await?);
    new.owner.app_version = 2;
    let session = id("s");
    let epoch = new.begin(&session, "new").await?;
    let down = Manners { down: vec![WorkerIndex(1)], force: true };
    assert_eq!(held(old.claim_one(&down, claim(&session, 100)).await?).app_version, 2);
    new.give_up(&session, epoch).await?;
    held(old.ask(&session).await?);
    held(old.claim_one(&FORCE, claim(&session, 100)).await?);
    let mut same = new.clone();
    same.owner.app_version = 1;
    held(same.claim_one(&FORCE, claim(&session, 100)).await?);
    assert_eq!(new.standing(&session, epoch).await?, Standing::Owned);
    Ok(())
}

pub(crate) async fn a_newer_topology_holds_its_sessions_unless_forced(place: &Place) -> Result<()> {
    let (mut new, old) = (place.worker(1).await?, place.worker(2).await?);
    new.owner.generation = Generation(9);
    let session = id("s");
    let epoch = new.begin(&session, "new").await?;
    new.give_up(&session, epoch).await?;
    assert_eq!(held(old.ask(&session).await?).generation, Generation(9));
    owned(old.claim_one(&FORCE, claim(&session, 100)).await?);
    Ok(())
}

pub(crate) async fn force_gives_a_row_the_generation_of_its_new_owner_even_if_that_is_lower(
    place: &Place,
) -> Result<()> {
    let (mut before, after) = (place.worker(1).await?, place.worker(2).await?);
    before.owner.generation = Generation(1 << 50);
    let session = id("s");
    before.begin(&session, "mine").await?;
    let epoch = owned(after.claim_one(&FORCE, claim(&session, 100)).await?).epoch;
    after.give_up(&session, epoch).await?;
    // Once was enough: from now on politeness does.
    let epoch = owned(after.ask(&session).await?).epoch;
    after.give_up(&session, epoch).await?;
    owned(before.ask(&session).await?);
    assert_eq!(held(after.ask(&session).await?).generation, Generation(1 << 50));
    Ok(())
}

pub(crate) async fn a_batch_of_claims_is_answered_in_its_order(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let sessions: Vec<SessionId> =
        (0..MAX_BATCH).map(|n| id(&format!("s{}", (n * 97) % MAX_BATCH))).collect();
    for n in (0..MAX_BATCH).step_by(64) {
        one.begin(&sessions[n], "held").await?;
    }
    let claims: Vec<_> = sessions.iter().zip(1000..).map(|(s, epoch)| claim(s, epoch)).collect();
    let claimed = two.claim(&two.owner, &POLITE, &claims).await?;
    assert_eq!(claimed.len(), MAX_BATCH);
    for (n, claimed) in claimed.into_iter().enumerate() {
        if n % 64 == 0 {
            held(claimed);
        } else {
            assert_eq!(owned(claimed).epoch, Epoch(1000 + n as u64));
        }
    }
    Ok(())
}

pub(crate) async fn an_owner_is_confirmed_and_another_is_fenced_or_absent(
    place: &Place,
) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let epoch = one.begin(&id("a"), "a").await?;
    let later = two.take(&id("a")).await?.epoch;
    let asked =
        [(id("missing"), epoch), (id("a"), epoch), (id("a"), later), (id("a"), Epoch(later.0 + 1))];
    let expected = [Standing::Absent, Standing::Fenced, Standing::Owned, Standing::Absent];
    assert_eq!(one.confirm(&asked).await?, expected);
    Ok(())
}

pub(crate) async fn clusters_do_not_see_each_other(place: &Place) -> Result<()> {
    let here = place.worker(1).await?;
    let mut settings = place.settings();
    settings.cluster.push_str("-other");
    let store = place.open(settings)?;
    store.prepare().await?;
    let there = Worker { store, owner: here.owner };
    let session = id("s");
    let epoch = here.begin(&session, "here").await?;
    assert_eq!(there.show(&session).await?, None);
    there.begin(&session, "there").await?;
    assert!(!there.discard(&id("other")).await?);
    assert!(there.discard(&session).await?);
    assert_eq!(there.list(None, 10).await?.len(), 1);
    assert_eq!(here.standing(&session, epoch).await?, Standing::Owned);
    assert_eq!(here.state(&session).await?, "here");
    Ok(())
}

pub(crate) async fn nothing_is_done_before_the_store_is_prepared(place: &Place) -> Result<()> {
    let store = place.open(place.settings())?;
    let worker = Worker { store, owner: crate::place::owner(1) };
    let refused = |error: StoreError| matches!(error, StoreError::Away(_));
    let claims = [claim(&id("s"), 1)];
    assert!(worker.claim(&worker.owner, &POLITE, &claims).await.is_err_and(refused));
    assert!(worker.list(None, 1).await.is_err_and(refused));
    worker.prepare().await?;
    worker.prepare().await?;
    worker.ask(&id("s")).await?;
    Ok(())
}

pub(crate) async fn workers_prepare_the_same_store_at_once(place: &Place) -> Result<()> {
    let stores: Vec<_> =
        (0..8).map(|_| place.open(place.settings())).collect::<Result<Vec<_>>>()?;
    let prepared = stores.iter().map(|store| store.prepare());
    for result in futures_util::future::join_all(prepared).await {
        result?;
    }
    for store in &stores {
        assert_eq!(store.list(None, 1).await?, []);
    }
    Ok(())
}
