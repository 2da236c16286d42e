//! What lies beside a snapshot: kept inputs, and strikes.

use anyhow::Result;
use bytes::Bytes;
use single_state_proto::id::Epoch;
use single_state_store::{Save, Saved};

use crate::place::{Place, id, save};

fn keep(of: Save, name: &str, bytes: Option<&'static [u8]>) -> Save {
    let mut kept = of.kept.clone();
    kept.push((name.to_owned(), bytes.map(Bytes::from_static)));
    Save { kept, ..of }
}

pub(crate) async fn an_input_is_kept_replaced_and_forgotten_with_its_save(
    place: &Place,
) -> Result<()> {
    let worker = place.worker(1).await?;
    let session = id("s");
    let epoch = worker.begin(&session, "first").await?;
    assert_eq!(worker.kept(&session, "a").await?, None);
    let both = keep(keep(save(&session, epoch, 2, "x"), "a", Some(b"1")), "b", Some(b""));
    worker.save_one(both).await?;
    assert_eq!(worker.kept(&session, "a").await?, Some("1".into()));
    assert_eq!(worker.kept(&session, "b").await?, Some(Bytes::new()));
    worker.save_one(keep(save(&session, epoch, 3, "x"), "a", Some(b"2"))).await?;
    assert_eq!(worker.kept(&session, "a").await?, Some("2".into()));
    worker.save_one(keep(save(&session, epoch, 4, "x"), "a", None)).await?;
    assert_eq!(worker.kept(&session, "a").await?, None);
    assert_eq!(worker.kept(&session, "b").await?, Some(Bytes::new()));
    assert_eq!(worker.kept(&id("missing"), "a").await?, None);
    Ok(())
}

pub(crate) async fn a_first_save_keeps_too(place: &Place) -> Result<()> {
    let worker = place.worker(1).await?;
    let first = Save { first: true, ..save(&id("s"), Epoch(5), 1, "x") };
    worker.save_one(keep(first, "a", Some(b"1"))).await?;
    assert_eq!(worker.kept(&id("s"), "a").await?, Some("1".into()));
    Ok(())
}

pub(crate) async fn a_save_that_is_not_written_keeps_nothing(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    let epoch = one.begin(&session, "first").await?;
    one.save_one(keep(save(&session, epoch, 3, "third"), "a", Some(b"3"))).await?;
    let late = keep(save(&session, epoch, 2, "second"), "a", Some(b"2"));
    assert_eq!(one.save_one(late).await?, Saved::Done);
    assert_eq!(one.kept(&session, "a").await?, Some("3".into()));
    two.take(&session).await?;
    for bytes in [None, Some(&b"4"[..])] {
        let fenced = keep(save(&session, epoch, 4, "fourth"), "a", bytes);
        assert_eq!(one.save_one(fenced).await?, Saved::Fenced);
        assert_eq!(two.kept(&session, "a").await?, Some("3".into()));
    }
    let nowhere = keep(save(&id("missing"), epoch, 1, "x"), "a", Some(b"1"));
    assert_eq!(one.save_one(nowhere).await?, Saved::Regressed);
    assert_eq!(one.kept(&id("missing"), "a").await?, None);
    Ok(())
}

pub(crate) async fn what_was_kept_ends_with_its_session(place: &Place) -> Result<()> {
    let worker = place.worker(1).await?;
    let mut epochs = Vec::new();
    for name in ["deleted", "discarded", "expired", "stays"] {
        let epoch = worker.begin(&id(name), "x").await?;
        let mut next = keep(save(&id(name), epoch, 2, "x"), "a", Some(b"1"));
        if name == "stays" {
            next.wake_at = Some(std::time::SystemTime::now());
        }
        worker.save_one(next).await?;
        epochs.push(epoch);
    }
    worker.delete(&id("deleted"), epochs[0]).await?;
    worker.discard(&id("discarded")).await?;
    for name in ["deleted", "discarded"] {
        assert_eq!(worker.kept(&id(name), "a").await?, None, "{name}");
    }
    assert_eq!(worker.expire(std::time::Duration::ZERO, 10).await?, 3);
    // A session of the same name begins without them.
    worker.begin(&id("expired"), "new").await?;
    assert_eq!(worker.kept(&id("expired"), "a").await?, None);
    assert_eq!(worker.kept(&id("stays"), "a").await?, Some("1".into()));
    Ok(())
}

pub(crate) async fn strikes_of_the_owner_count_and_are_seen_by_the_next_one(
    place: &Place,
) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    let epoch = one.begin(&session, "x").await?;
    let mine = [(session.clone(), epoch), (id("missing"), epoch)];
    one.strike(&mine).await?;
    one.strike(&mine).await?;
    let row = two.take(&session).await?;
    assert_eq!(row.strikes, 2);
    // An earlier owner strikes nobody else.
    one.strike(&mine).await?;
    assert_eq!(two.load(&session, row.epoch).await?.map(|row| row.strikes), Some(2));
    assert_eq!(two.look(&session).await?.0.strikes, 2);
    Ok(())
}

pub(crate) async fn a_commit_clears_the_strikes_and_a_fenced_one_does_not(
    place: &Place,
) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    let session = id("s");
    let epoch = one.begin(&session, "x").await?;
    let later = two.take(&session).await?.epoch;
    two.strike(&[(session.clone(), later)]).await?;
    assert_eq!(one.save_one(save(&session, epoch, 2, "y")).await?, Saved::Fenced);
    assert_eq!(two.look(&session).await?.0.strikes, 1);
    two.save_one(save(&session, later, 2, "y")).await?;
    assert_eq!(two.look(&session).await?.0.strikes, 0);
    Ok(())
}

pub(crate) async fn a_release_clears_the_strikes_unless_it_keeps_them(place: &Place) -> Result<()> {
    let worker = place.worker(1).await?;
    for (name, keep, left) in [("clears", false, 0), ("keeps", true, 1)] {
        let mine = [(id(name), worker.begin(&id(name), "x").await?)];
        worker.strike(&mine).await?;
        worker.release(&mine, keep).await?;
        let listed = worker.look(&id(name)).await?.0;
        assert_eq!((listed.owner, listed.strikes), (None, left), "{name}");
    }
    Ok(())
}
