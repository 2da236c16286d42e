//! Saves that are cut off at any point: what was reported as done is there, what was not is repeated
//! with the same bytes, and a session has one history.

use std::collections::BTreeMap;
use std::task::Poll;

use anyhow::{Result, bail};
use futures_util::future::join_all;
use single_state_proto::id::Epoch;
use single_state_store::{Claim, Claimed, Manners, Saved, Settings, SharedStore, open};
use single_state_tests::postgres::TempPostgres;
use tokio_postgres::Client;

use crate::setting::{OWNER, Saving, id, must_be_away, prepared, wait_until};

/// Writes down each committed change of a session, in the order in which they were made.
const RECORD: &str = "
    CREATE TABLE history (n bigserial, id text, version bigint, state bytea);
    CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO history (id, version, state) VALUES (NEW.id, NEW.version, NEW.state);
      RETURN NULL;
    END $$;
    CREATE TRIGGER record AFTER UPDATE ON single_state.session
      FOR EACH ROW EXECUTE FUNCTION record();";

async fn begin(store: &SharedStore, count: usize) -> Result<Vec<Saving>> {
    let mut all = Vec::new();
    for n in 0..count {
        all.push(Saving::begin(store, &format!("s{n}")).await?);
    }
    Ok(all)
}

/// Each version once, or several times with the same bytes, and none left out.
async fn check_history(client: &Client, savings: &[Saving]) -> Result<()> {
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    let history = "SELECT id, version, state FROM history ORDER BY n";
    for row in client.query(history, &[]).await? {
        let (session, version): (String, i64) = (row.get(0), row.get(1));
        let before = last.insert(session.clone(), version).unwrap_or(0);
        assert!([before, before + 1].contains(&version), "{session}: {before}, then {version}");
        let saving = savings.iter().find(|saving| saving.session.as_str() == session);
        let state = saving.map(|saving| saving.state(version.unsigned_abs()));
        assert_eq!(Some(row.get::<_, &[u8]>(2)), state.as_deref(), "{session}: {version}");
    }
    for saving in savings {
        let last = last.get(saving.session.as_str()).copied();
        assert_eq!(last.map(i64::unsigned_abs), Some(saving.done));
    }
    Ok(())
}

#[tokio::test]
async fn what_was_done_before_a_crash_of_the_server_is_there_after_it() -> Result<()> {
    let server = TempPostgres::start().await?;
    let store = prepared(&server.url()).await?;
    let mut savings = begin(&store, 6).await?;
    for _ in 0..3 {
        for saving in &mut savings {
            saving.save_in_the_end(&store).await?;
        }
        let goal = savings[0].done + 20;
        let (tell, told) = tokio::sync::watch::channel(0);
        let saves = join_all(savings.iter_mut().map(async |saving| {
            while saving.save(&store).await.is_ok() {
                tell.send_modify(|most| *most = saving.done.max(*most));
            }
        }));
        let crash = async {
            let mut told = told;
            told.wait_for(|most| *most >= goal).await?;
            server.stop_immediate().await
        };
        tokio::join!(saves, crash).1?;
        server.restart().await?;
        for saving in &mut savings {
            wait_until("the store is back", async || Ok(store.prepare().await.is_ok())).await?;
            saving.check(&store).await?;
            saving.save_in_the_end(&store).await?;
            saving.check(&store).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn saves_whose_connections_are_killed_again_and_again_are_each_done_once() -> Result<()> {
    let server = TempPostgres::start().await?;
    let store = prepared(&server.url()).await?;
    let client = server.client().await?;
    client.batch_execute(RECORD).await?;
    let mut savings = begin(&store, 6).await?;
    let (tell, mut told) = tokio::sync::watch::channel(0);
    let saves = async {
        let saves = savings.iter_mut().map(async |saving| {
            for _ in 0..30 {
                saving.save_in_the_end(&store).await?;
                tell.send_modify(|done| *done += 1);
            }
            Ok(())
        });
        let saved: Result<()> = join_all(saves).await.into_iter().collect();
        drop(tell);
        saved
    };
    // Whenever a save is done, the others are somewhere in theirs.
    let kills = async {
        let (mut goal, mut killed) = (0, 0);
        while told.wait_for(|done| *done > goal).await.is_ok() {
            goal = *told.borrow() + 2;
            killed += server.terminate_backends(&client).await?;
        }
        Ok::<i64, anyhow::Error>(killed)
    };
    let (saved, killed) = tokio::join!(saves, kills);
    saved?;
    let killed = killed?;
    assert!(killed > 0, "no connection was killed");
    for saving in &savings {
        saving.check(&prepared(&server.url()).await?).await?;
    }
    check_history(&client, &savings).await
}

#[tokio::test]
async fn a_save_that_is_cut_off_after_its_commit_is_repeated_and_done() -> Result<()> {
    let server = TempPostgres::start().await?;
    let store = prepared(&server.url()).await?;
    let client = server.client().await?;
    client.batch_execute(RECORD).await?;
    let mut savings = begin(&store, 1).await?;
    for version in 1..=4 {
        // A commit then waits for a standby that never comes, with its record written.
        await_standbys(&client, "nobody").await?;
        let kill = async {
            wait_until("the save is in its commit", async || {
                let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
                Ok(client.query_one(waiting, &[]).await?.get::<_, i64>(0) > 0)
            })
            .await?;
            let kill = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) \
                FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            anyhow::Ok(client.query_one(kill, &[]).await?.get::<_, i64>(0))
        };
        let (saved, killed) = tokio::join!(savings[0].save(&store), kill);
        assert_eq!(killed?, 1);
        must_be_away(&saved.unwrap_err())?;
        await_standbys(&client, "").await?;
        let row = client.query_one("SELECT version FROM single_state.session", &[]).await?;
        assert_eq!(row.get::<_, i64>(0), version, "it was committed, and the store cannot know");
        savings[0].save_in_the_end(&store).await?;
    }
    savings[0].check(&store).await?;
    check_history(&client, &savings).await
}

async fn await_standbys(client: &Client, names: &str) -> Result<()> {
    client.batch_execute("SET synchronous_commit = local").await?;
    let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
    client.batch_execute(&set).await?;
    client.batch_execute("SELECT pg_reload_conf()").await?;
    wait_until("the server has read its settings", async || {
        let shown = client.query_one("SHOW synchronous_standby_names", &[]).await?;
        Ok(shown.get::<_, &str>(0) == names)
    })
    .await?;
    // The checkpointer tells all commits to wait. It has, when it has done something else since.
    Ok(client.batch_execute("CHECKPOINT").await?)
}

#[tokio::test]
async fn a_connection_that_hangs_is_not_used_again() -> Result<()> {
    let server = TempPostgres::start().await?;
    let settings = Settings { connections: 1, ..Settings::default() };
    let store = open(&server.url(), settings)?;
    store.prepare().await?;
    let mut saving = Saving::begin(&store, "s").await?;
    let client = server.client().await?;
    let others = "SELECT pid FROM pg_stat_activity WHERE application_name = 'single-state'";
    let backend: i32 = client.query_one(others, &[]).await?.get(0);
    server.signal_backend(backend, "STOP")?;
    must_be_away(&saving.save(&store).await.unwrap_err())?;
    let saved = saving.save(&store).await;
    server.signal_backend(backend, "CONT")?;
    saved?;
    saving.check(&store).await
}

#[tokio::test]
async fn a_call_that_is_dropped_half_way_leaves_nothing_to_the_next_one() -> Result<()> {
    let server = TempPostgres::start().await?;
    let settings = Settings { connections: 1, ..Settings::default() };
    let store = open(&server.url(), settings)?;
    store.prepare().await?;
    let mut saving = Saving::begin(&store, "s").await?;
    for polls in 0..40 {
        let save = saving.next();
        let saves = [save];
        let mut call = store.save(&OWNER, &saves);
        for _ in 0..polls % 8 {
            let done = std::future::poll_fn(|context| {
                Poll::Ready(call.as_mut().poll(context).map(|saved| saved.map(|_| ())))
            });
            if let Poll::Ready(done) = done.await {
                done?;
                break;
            }
            // The connection's task is given its turn, so that the call comes further.
            tokio::task::yield_now().await;
        }
        drop(call);
        saving.check(&store).await?;
        saving.save_in_the_end(&store).await?;
    }
    saving.check(&store).await
}

/// So many other rows that those of a batch are looked up one by one, in the batch's order: out of
/// a small table they are read in the table's.
const CROWD: &str = "
    INSERT INTO single_state.session
      (cluster, id, epoch, generation, app_version, version, codec, state)
    SELECT 'default', 'crowd-' || n, 1, 1, 1, 1, 1, '' FROM generate_series(1, 20000) n;
    ANALYZE single_state.session;";

#[tokio::test]
async fn batches_over_the_same_sessions_never_wait_for_each_other_in_a_circle() -> Result<()> {
    let server = TempPostgres::start().await?;
    let store = prepared(&server.url()).await?;
    let client = server.client().await?;
    client.batch_execute(CROWD).await?;
    let rounds = (0..4_usize).map(async |worker| {
        for round in 0..25 {
            // The same twelve sessions, each time in another order; for every other worker a third
            // of them is new.
            let all = (0..12).map(|n| (n * 5 + worker * 7 + round) % 12);
            let all: Vec<usize> = all.filter(|n| worker % 2 == 0 || n % 3 != 0).collect();
            let name = |n: &usize| match n % 3 {
                0 => id(&format!("n{round}-{n}")),
                _ => id(&format!("s{n}")),
            };
            let claims: Vec<Claim> = all
                .iter()
                .filter(|n| *n % 3 != 0)
                .map(|n| Claim { session: name(n), at_least: Epoch(1) })
                .collect();
            let manners = Manners { force: true, ..Manners::default() };
            let claimed = store.claim(&OWNER, &manners, &claims).await?;
            let owned = claims.iter().zip(claimed).filter_map(|(claim, claimed)| match claimed {
                Claimed::Owned(row) => Some((claim.session.clone(), row.epoch)),
                Claimed::Held(_) => None,
            });
            let epochs: BTreeMap<_, _> = owned.collect();
            let confirmed: Vec<_> = all.iter().map(|n| (name(n), Epoch(round as u64))).collect();
            let saves = all.iter().map(|n| {
                let of_new = Epoch(1 + worker as u64);
                let epoch = epochs.get(&name(n)).copied().unwrap_or(of_new);
                let saving = Saving { session: name(n), epoch, done: 0 };
                single_state_store::Save { first: n % 3 == 0, ..saving.next() }
            });
            let saved = store.save(&OWNER, &saves.collect::<Vec<_>>()).await?;
            // Others may have claimed some of them since then.
            if saved.len() != all.len() || saved.contains(&Saved::Regressed) {
                bail!("{saved:?}");
            }
            store.strike(&confirmed).await?;
            store.release(&confirmed, false).await?;
        }
        Ok::<(), anyhow::Error>(())
    });
    join_all(rounds).await.into_iter().collect::<Result<()>>()?;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(client.query_one(deadlocks, &[]).await?.get::<_, i64>(0), 0);
    assert!(!server.log().contains("deadlock"), "{}", server.log());
    Ok(())
}
