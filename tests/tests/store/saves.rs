//! Which saves are committed, and what the others are told.

use anyhow::Result;
use single_state_proto::id::{Epoch, SessionId, WorkerIndex};
use single_state_store::{INLINE_STATE, MAX_BATCH, Save, Saved, Version};

use crate::place::{Place, id, save};

pub(crate) async fn an_earlier_owner_saves_nothing(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    let epoch = one.begin(&session, "one").await?;
    let later = two.take(&session).await?.epoch;
    assert_eq!(one.save_one(save(&session, epoch, 9, "late")).await?, Saved::Fenced);
    assert_eq!(two.state(&session).await?, "one");
    assert_eq!(two.save_one(save(&session, later, 2, "two")).await?, Saved::Done);
    assert_eq!(one.save_one(save(&session, epoch, 9, "late")).await?, Saved::Fenced);
    assert_eq!(two.state(&session).await?, "two");
    Ok(())
}

/// As when a worker has lost a session, got it back, and repeats what it could not save before.
pub(crate) async fn an_earlier_ownership_saves_nothing_beside_the_later_one_of_the_same_worker(
    place: &Place,
) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    let earlier = one.begin(&session, "one").await?;
    two.take(&session).await?;
    let later = one.take(&session).await?.epoch;
    let both = [save(&session, earlier, 9, "late"), save(&session, later, 2, "two")];
    let saved = one.store.save(&one.owner, &both).await?;
    assert_eq!(saved, [Saved::Fenced, Saved::Done]);
    assert_eq!(one.state(&session).await?, "two");
    Ok(())
}

pub(crate) async fn a_late_save_of_an_older_snapshot_overwrites_nothing(
    place: &Place,
) -> Result<()> {
    let worker = place.worker(1).await?;
    let session = id("s");
    let epoch = worker.begin(&session, "first").await?;
    worker.save_one(save(&session, epoch, 3, "third")).await?;
    assert_eq!(worker.save_one(save(&session, epoch, 2, "second")).await?, Saved::Done);
    let (listed, state) = worker.look(&session).await?;
    assert_eq!((listed.version, state), (Version(3), "third".into()));
    Ok(())
}

pub(crate) async fn a_repeated_save_is_done(place: &Place) -> Result<()> {
    let worker = place.worker(1).await?;
    let session = id("s");
    let epoch = worker.begin(&session, "first").await?;
    for _ in 0..3 {
        assert_eq!(worker.save_one(save(&session, epoch, 2, "second")).await?, Saved::Done);
        assert_eq!(worker.state(&session).await?, "second");
    }
    Ok(())
}

pub(crate) async fn a_first_save_makes_the_row(place: &Place) -> Result<()> {
    let worker = place.worker(1).await?;
    let session = id("s");
    let first = Save { first: true, ..save(&session, Epoch(50), 1, "first") };
    for _ in 0..2 {
        assert_eq!(worker.save_one(first.clone()).await?, Saved::Done);
    }
    let (listed, state) = worker.look(&session).await?;
    assert_eq!((listed.epoch, listed.version), (Epoch(50), Version(1)));
    assert_eq!((listed.owner, listed.app_version), (Some(WorkerIndex(1)), 1));
    assert_eq!((listed.codec, state), (7, "first".into()));
    // The answer to the first was lost, and by now there is more to save.
    let second = Save { first: true, ..save(&session, Epoch(50), 2, "second") };
    assert_eq!(worker.save_one(second).await?, Saved::Done);
    assert_eq!(worker.state(&session).await?, "second");
    assert_eq!(worker.save_one(first).await?, Saved::Done);
    assert_eq!(worker.state(&session).await?, "second");
    Ok(())
}

pub(crate) async fn a_first_save_of_another_epoch_is_fenced(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    one.save_one(Save { first: true, ..save(&session, Epoch(50), 1, "one") }).await?;
    for epoch in [49, 51] {
        let first = Save { first: true, ..save(&session, Epoch(epoch), 1, "two") };
        assert_eq!(two.save_one(first).await?, Saved::Fenced, "epoch {epoch}");
    }
    assert_eq!(one.state(&session).await?, "one");
    Ok(())
}

pub(crate) async fn a_row_that_is_gone_or_went_back_has_regressed(place: &Place) -> Result<()> {
    let worker = place.worker(1).await?;
    let missing = save(&id("missing"), Epoch(100), 1, "x");
    assert_eq!(worker.save_one(missing).await?, Saved::Regressed);
    assert_eq!(worker.show(&id("missing")).await?, None);
    let epoch = worker.begin(&id("s"), "first").await?;
    let ahead = save(&id("s"), Epoch(epoch.0 + 1), 2, "x");
    assert_eq!(worker.save_one(ahead).await?, Saved::Regressed);
    assert_eq!(worker.state(&id("s")).await?, "first");
    Ok(())
}

pub(crate) async fn a_fenced_save_leaves_the_others_of_its_batch(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let mut epochs = Vec::new();
    for name in ["d", "a", "c"] {
        epochs.push(one.begin(&id(name), "first").await?);
    }
    two.take(&id("a")).await?;
    let batch = [
        save(&id("d"), epochs[0], 2, "second"),
        save(&id("a"), epochs[1], 2, "second"),
        save(&id("b"), Epoch(100), 2, "second"),
        save(&id("c"), epochs[2], 2, "second"),
        Save { first: true, ..save(&id("e"), Epoch(100), 1, "second") },
    ];
    let saved = one.save(&one.owner, &batch).await?;
    assert_eq!(saved, [Saved::Done, Saved::Fenced, Saved::Regressed, Saved::Done, Saved::Done]);
    for (name, state) in [("a", "first"), ("c", "second"), ("d", "second"), ("e", "second")] {
        assert_eq!(one.state(&id(name)).await?, state, "{name}");
    }
    Ok(())
}

pub(crate) async fn a_save_leaves_its_owner_and_notes_its_app_version(place: &Place) -> Result<()> {
    let (one, mut two) = (place.worker(1).await?, place.worker(2).await?);
    two.owner.app_version = 4;
    one.begin(&id("s"), "one").await?;
    let epoch = two.take(&id("s")).await?.epoch;
    assert_eq!(two.look(&id("s")).await?.0.app_version, 1, "of the snapshot, not of the owner");
    two.save_one(Save { codec: 9, ..save(&id("s"), epoch, 2, "two") }).await?;
    let listed = two.look(&id("s")).await?.0;
    assert_eq!((listed.owner, listed.epoch), (Some(WorkerIndex(2)), epoch));
    assert_eq!((listed.app_version, listed.codec, listed.bytes), (4, 9, 3));
    Ok(())
}

pub(crate) async fn only_the_owner_loads(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    let epoch = one.begin(&session, "one").await?;
    let row = one.load(&session, epoch).await?.expect("the owner's row");
    assert_eq!((row.epoch, row.version, row.app_version), (epoch, Version(1), 1));
    assert_eq!((row.codec, row.strikes, row.state), (7, 0, Some("one".into())));
    assert!(!row.unreleased);
    let later = two.take(&session).await?;
    assert_eq!(two.load(&session, later.epoch).await?, Some(later), "as it was claimed");
    assert_eq!(one.load(&session, epoch).await?, None);
    assert_eq!(one.load(&id("missing"), epoch).await?, None);
    Ok(())
}

pub(crate) async fn snapshots_of_all_lengths_come_back_as_they_were(place: &Place) -> Result<()> {
    let worker = place.worker(1).await?;
    for length in [0, 1, INLINE_STATE, INLINE_STATE + 1, 16 * 1024 * 1024] {
        let session = id(&format!("s{length}"));
        let state: bytes::Bytes = (0..length).map(|n| (n * 31 % 251) as u8).collect();
        let epoch = worker.take(&session).await?.epoch;
        let saved = worker.save_one(save(&session, epoch, 1, state.clone())).await?;
        assert_eq!(saved, Saved::Done);
        let row = worker.take(&session).await?;
        assert_eq!(row.state.is_some(), length <= INLINE_STATE, "{length}");
        if let Some(inline) = row.state {
            assert!(inline == state, "{length}");
        }
        let loaded = worker.load(&session, row.epoch).await?.expect("its own row");
        assert!(loaded.state.is_some_and(|loaded| loaded == state), "{length}");
        let (listed, shown) = worker.look(&session).await?;
        assert_eq!(listed.bytes, length as u64);
        assert!(shown == state, "{length}");
    }
    Ok(())
}

pub(crate) async fn a_full_batch_is_saved_and_answered_in_its_order(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let sessions: Vec<SessionId> =
        (0..MAX_BATCH).map(|n| id(&format!("s{}", (n * 101) % MAX_BATCH))).collect();
    let first = |(n, session): (usize, &SessionId)| Save {
        first: true,
        ..save(session, Epoch(10 + n as u64), 1, format!("{n}"))
    };
    let saves: Vec<_> = sessions.iter().enumerate().map(first).collect();
    assert_eq!(one.save(&one.owner, &saves).await?, vec![Saved::Done; MAX_BATCH]);
    two.take(&sessions[200]).await?;
    let again = |(n, session): (usize, &SessionId)| {
        save(session, Epoch(10 + n as u64), 2, format!("{n} again"))
    };
    let saves: Vec<_> = sessions.iter().enumerate().map(again).collect();
    let saved = one.save(&one.owner, &saves).await?;
    for (n, saved) in saved.into_iter().enumerate() {
        let expected = if n == 200 { Saved::Fenced } else { Saved::Done };
        assert_eq!(saved, expected, "{n}");
    }
    assert_eq!(two.state(&sessions[200]).await?, "200");
    assert_eq!(two.state(&sessions[199]).await?, "199 again");
    assert_eq!(one.save(&one.owner, &[]).await?, []);
    Ok(())
}
