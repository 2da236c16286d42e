//! Which sessions have work to do, and for whom.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use single_state_proto::id::{Incarnation, WorkerIndex};
use single_state_store::{Due, Save};

use crate::place::{Place, Worker, id, save};

/// A moment, `seconds` after a full minute.
fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// A session that `worker` owns and that has something to do at `wake_at`.
async fn waits(worker: &Worker, name: &str, wake_at: Option<SystemTime>) -> Result<()> {
    let epoch = worker.take(&id(name)).await?.epoch;
    worker.save_one(Save { wake_at, ..save(&id(name), epoch, 1, "x") }).await?;
    Ok(())
}

async fn waits_alone(worker: &Worker, name: &str, wake_at: SystemTime) -> Result<()> {
    waits(worker, name, Some(wake_at)).await?;
    let epoch = worker.look(&id(name)).await?.0.epoch;
    worker.give_up(&id(name), epoch).await
}

fn names(due: &[Due]) -> Vec<&str> {
    due.iter().map(|due| due.session.as_str()).collect()
}

pub(crate) async fn a_time_is_cut_to_its_minute(place: &Place) -> Result<()> {
    let worker = place.worker(1).await?;
    waits_alone(&worker, "s", at(119) + Duration::from_millis(999)).await?;
    assert_eq!(worker.look(&id("s")).await?.0.wake_at, Some(at(60)));
    assert_eq!(worker.due(&worker.owner, &[], at(59), None, 10).await?, []);
    let due = worker.due(&worker.owner, &[], at(60), None, 10).await?;
    assert_eq!(due, [Due { session: id("s"), wake_at: at(60) }]);
    Ok(())
}

pub(crate) async fn due_sessions_come_in_order_of_time_and_id_by_pages(
    place: &Place,
) -> Result<()> {
    let worker = place.worker(1).await?;
    for (name, minute) in [("b", 2), ("c", 1), ("B", 2), ("a", 3), ("d", 1), ("later", 9)] {
        waits_alone(&worker, name, at(minute * 60)).await?;
    }
    let due = worker.due(&worker.owner, &[], at(300), None, 10).await?;
    assert_eq!(names(&due), ["c", "d", "B", "b", "a"]);
    let mut found = Vec::new();
    loop {
        let page = worker.due(&worker.owner, &[], at(300), found.last(), 2).await?;
        let is_last = page.len() < 2;
        found.extend(page);
        assert!(found.len() <= due.len(), "pages repeat: {found:?}");
        if is_last {
            break;
        }
    }
    assert_eq!(found, due);
    Ok(())
}

pub(crate) async fn work_of_live_owners_is_theirs(place: &Place) -> Result<()> {
    let (one, two) = (place.worker(1).await?, place.worker(2).await?);
    waits(&one, "ones", Some(at(0))).await?;
    waits(&two, "twos", Some(at(0))).await?;
    waits(&two, "idle", None).await?;
    waits_alone(&one, "nobodys", at(0)).await?;
    let ask = async |worker: &Worker, down: &[u16]| -> Result<Vec<String>> {
        let down: Vec<_> = down.iter().copied().map(WorkerIndex).collect();
        let due = worker.due(&worker.owner, &down, at(0), None, 10).await?;
        Ok(names(&due).into_iter().map(str::to_owned).collect())
    };
    assert_eq!(ask(&one, &[]).await?, ["nobodys"]);
    assert_eq!(ask(&one, &[5, 2]).await?, ["nobodys", "twos"]);
    let mut restarted = one.clone();
    restarted.owner.incarnation = Incarnation(2);
    assert_eq!(ask(&restarted, &[]).await?, ["nobodys", "ones"]);
    Ok(())
}

pub(crate) async fn a_save_without_a_time_ends_the_wait(place: &Place) -> Result<()> {
    let worker = place.worker(1).await?;
    waits(&worker, "s", Some(at(0))).await?;
    let epoch = worker.look(&id("s")).await?.0.epoch;
    let next = Save { wake_at: Some(at(180)), ..save(&id("s"), epoch, 2, "x") };
    worker.save_one(next).await?;
    assert_eq!(worker.look(&id("s")).await?.0.wake_at, Some(at(180)));
    let epoch = worker.take(&id("s")).await?.epoch;
    assert_eq!(worker.look(&id("s")).await?.0.wake_at, Some(at(180)), "a claim leaves it");
    worker.save_one(save(&id("s"), epoch, 3, "x")).await?;
    assert_eq!(worker.look(&id("s")).await?.0.wake_at, None);
    Ok(())
}
