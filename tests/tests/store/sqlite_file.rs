//! What only a file can do: be no database, be damaged, be full, be gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice::from_ref;

use anyhow::{Result, bail, ensure};
use rusqlite::Connection;
use single_state_store::{Saved, Settings, SharedStore, Standing, StoreError, open};
use single_state_tests::append::wait_until;

use crate::place::{Place, Worker, block_on, id, owner, save};

fn at(path: &Path) -> Result<SharedStore> {
    Ok(open(&format!("sqlite:{}", path.display()), Settings::default())?)
}

/// The sentence of a store that will not work until an operator has done something.
async fn unusable(path: &Path) -> Result<String> {
    let Err(StoreError::Unusable(sentence)) = at(path)?.prepare().await else {
        bail!("{} may be used, or later", path.display())
    };
    ensure!(sentence.contains(&path.display().to_string()), "which file? {sentence}");
    ensure!(!sentence.contains('\n'), "one sentence: {sentence}");
    Ok(sentence)
}

/// The sentence of a store that is to be tried again.
fn away<T>(result: Result<T, StoreError>) -> Result<String> {
    match result {
        Err(StoreError::Away(sentence)) => Ok(sentence),
        Err(error) => bail!("not away, but unusable: {error}"),
        Ok(_) => bail!("it was done"),
    }
}

async fn prepared(path: &Path) -> Result<Worker> {
    let store = at(path)?;
    store.prepare().await?;
    Ok(Worker { store, owner: owner(1) })
}

fn file(place: &Place) -> Result<PathBuf> {
    Ok(place.folder()?.join("sessions.db"))
}

#[test]
fn a_missing_folder_is_made() -> Result<()> {
    block_on(async {
        let place = Place::sqlite().await?;
        let path = place.folder()?.join("a/b/sessions.db");
        prepared(&path).await?.begin(&id("s"), "x").await?;
        ensure!(path.exists());
        Ok(())
    })
}

#[test]
fn a_file_that_is_no_database_is_named_and_left_alone() -> Result<()> {
    block_on(async {
        let place = Place::sqlite().await?;
        let text = "a letter to a friend, long enough to be more than a header\n".repeat(100);
        fs::write(file(&place)?, &text)?;
        let sentence = unusable(&file(&place)?).await?;
        ensure!(sentence.contains("is not an SQLite database"), "{sentence}");
        assert_eq!(fs::read_to_string(file(&place)?)?, text);
        Ok(())
    })
}

#[test]
fn a_damaged_database_is_named() -> Result<()> {
    block_on(async {
        let place = Place::sqlite().await?;
        prepared(&file(&place)?).await?.begin(&id("s"), "x").await?;
        // The header stays as it is, and every page behind it is nonsense.
        let copy = place.folder()?.join("copy.db");
        checkpointed_copy(&file(&place)?, &copy)?;
        let mut bytes = fs::read(&copy)?;
        bytes[100..].fill(0x5a);
        fs::write(&copy, bytes)?;
        let sentence = unusable(&copy).await?;
        ensure!(sentence.contains("is damaged"), "{sentence}");
        Ok(())
    })
}

fn checkpointed_copy(from: &Path, to: &Path) -> Result<()> {
    Connection::open(from)?.execute("VACUUM INTO ?1", [to.to_str()])?;
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_is_named() -> Result<()> {
    block_on(async {
        let place = Place::sqlite().await?;
        let not_a_folder = place.folder()?.join("file");
        fs::write(&not_a_folder, "")?;
        let Err(error) = at(&not_a_folder.join("sessions.db"))?.prepare().await else {
            bail!("a file is no folder")
        };
        ensure!(matches!(&error, StoreError::Unusable(_)), "{error:?}");
        ensure!(error.to_string().contains(&not_a_folder.display().to_string()), "{error}");
        // A folder where the file should be.
        fs::create_dir(file(&place)?)?;
        unusable(&file(&place)?).await?;
        Ok(())
    })
}

#[test]
fn a_database_of_a_newer_build_is_left_alone() -> Result<()> {
    block_on(async {
        let place = Place::sqlite().await?;
        prepared(&file(&place)?).await?;
        Connection::open(file(&place)?)?.execute(
            "INSERT INTO refinery_schema_history (version, name, applied_on, checksum) \
             VALUES (999, 'later', '2030-01-01T00:00:00Z', '1')",
            [],
        )?;
        let sentence = unusable(&file(&place)?).await?;
        ensure!(sentence.contains("newer build") && sentence.contains("V999__later"), "{sentence}");
        Ok(())
    })
}

#[test]
fn tables_of_another_program_are_left_alone() -> Result<()> {
    block_on(async {
        let place = Place::sqlite().await?;
        let other = Connection::open(file(&place)?)?;
        other.execute_batch("CREATE TABLE session (name TEXT)")?;
        unusable(&file(&place)?).await?;
        Ok(())
    })
}

/// Eight processes at once, each with its own connection and lock.
#[test]
fn workers_on_several_threads_prepare_the_same_file_at_once() -> Result<()> {
    let place = block_on(Place::sqlite())?;
    let path = file(&place)?;
    std::thread::scope(|scope| {
        let start = || block_on(async { prepared(&path).await.map(|_| ()) });
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })
}

/// A file system of so many bytes that ends with the test.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of(bytes: u64) -> Result<Self> {
        Self::mount(&format!("size={bytes}"))
    }

    fn mount(options: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(folder.path())
            .output()?;
        let why = String::from_utf8_lossy(&mounted.stderr).into_owned();
        ensure!(mounted.status.success(), "this test needs root, to mount a small disk: {why}");
        Ok(Self(folder))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: threads of the store may still have the file open.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_that_cannot_be_written_is_named() -> Result<()> {
    let disk = Disk::mount("ro")?;
    block_on(async {
        let sentence = unusable(&disk.0.path().join("sessions.db")).await?;
        ensure!(sentence.contains("rights"), "{sentence}");
        Ok(())
    })
}

#[test]
fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() -> Result<()> {
    let disk = Disk::of(2 * 1024 * 1024)?;
    block_on(async {
        let path = disk.0.path().join("sessions.db");
        let worker = prepared(&path).await?;
        let epoch = worker.begin(&id("s"), "first").await?;
        fill(&disk.0.path().join("ballast"))?;
        let large = save(&id("s"), epoch, 2, vec![7; 512 * 1024]);
        for _ in 0..3 {
            let sentence = away(worker.save(&worker.owner, from_ref(&large)).await)?;
            ensure!(sentence.contains("full"), "{sentence}");
        }
        assert_eq!(worker.state(&id("s")).await?, "first");
        assert_eq!(worker.standing(&id("s"), epoch).await?, Standing::Owned);
        fs::remove_file(disk.0.path().join("ballast"))?;
        assert_eq!(worker.save_one(large.clone()).await?, Saved::Done);
        ensure!(worker.state(&id("s")).await? == large.state);
        Ok(())
    })
}

#[test]
fn a_disk_that_is_full_at_the_start_may_have_room_later() -> Result<()> {
    let disk = Disk::of(1024 * 1024)?;
    block_on(async {
        fill(&disk.0.path().join("ballast"))?;
        let store = at(&disk.0.path().join("sessions.db"))?;
        away(store.prepare().await)?;
        fs::remove_file(disk.0.path().join("ballast"))?;
        store.prepare().await?;
        Ok(())
    })
}

/// Takes all the room that is left.
fn fill(path: &Path) -> Result<()> {
    use std::io::Write;
    let mut ballast = fs::File::create(path)?;
    while ballast.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    Ok(())
}

#[test]
fn a_program_that_holds_the_database_is_waited_for() -> Result<()> {
    block_on(async {
        let place = Place::sqlite().await?;
        let settings =
            Settings { timeout: std::time::Duration::from_millis(200), ..place.settings() };
        let (worker, hasty) = (place.worker(1).await?, place.open(settings)?);
        // It gives up soon also when nobody is in its way.
        wait_until("the file is ready", async || Ok(hasty.prepare().await.is_ok())).await?;
        let epoch = worker.begin(&id("s"), "first").await?;
        let other = Connection::open(file(&place)?)?;
        other.execute_batch("BEGIN IMMEDIATE")?;
        let next = save(&id("s"), epoch, 2, "second");
        away(hasty.save(&worker.owner, from_ref(&next)).await)?;
        other.execute_batch("ROLLBACK")?;
        assert_eq!(worker.save_one(next).await?, Saved::Done);
        Ok(())
    })
}

/// Otherwise workers that opened different files would not see each other's claims.
#[test]
fn workers_notice_that_the_file_was_moved_away() -> Result<()> {
    block_on(async {
        let place = Place::sqlite().await?;
        let (one, two) = (place.worker(1).await?, place.worker(2).await?);
        let epoch = one.begin(&id("s"), "first").await?;
        for end in ["", "-wal", "-shm", ".lock"] {
            let name = format!("sessions.db{end}");
            fs::rename(place.folder()?.join(&name), place.folder()?.join(format!("old-{name}")))?;
        }
        let late = save(&id("s"), epoch, 2, "second");
        assert_eq!(one.save_one(late).await?, Saved::Regressed);
        let epoch = two.begin(&id("s"), "new").await?;
        assert_eq!(one.standing(&id("s"), epoch).await?, Standing::Owned);
        Ok(())
    })
}
