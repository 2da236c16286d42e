//! `sessions list`: rows as they come out of the store, page after page. Holds one page at a time.

use std::io::Write;

use single_state_proto::id::SessionId;
use single_state_store::{Listed, MAX_BATCH, SharedStore};

use super::{Failure, Numbers};

/// Columns of the table; the last one is empty for most rows.
const HEADS: [&str; 10] =
    ["id", "owner", "epoch", "version", "app", "strikes", "bytes", "wake_at", "updated", ""];

/// Writes up to `limit` rows behind `after`.
pub(super) async fn list(
    store: &SharedStore,
    mut after: Option<SessionId>,
    limit: usize,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut table = (!json).then(Table::default);
    let mut left = limit;
    loop {
        let asked = left.min(MAX_BATCH);
        let page = store.list(after.as_ref(), asked).await?;
        let written = match &mut table {
            Some(table) => table.write(&page, out),
            None => write_lines(&page, out),
        };
        // Whoever reads along sees each page when it is there.
        written.and_then(|()| out.flush()).map_err(Failure::Output)?;
        left -= page.len().min(left);
        if page.len() < asked || left == 0 {
            return Ok(());
        }
        after = page.last().map(|row| row.session.clone());
    }
}

fn write_lines(page: &[Listed], out: &mut impl Write) -> std::io::Result<()> {
    for row in page {
        serde_json::to_writer(&mut *out, &Numbers::new(row))?;
        writeln!(out)?;
    }
    Ok(())
}

/// Rows under heads. A page is as wide as its widest row and the pages before it: how wide those to
/// come are is not known yet.
#[derive(Debug, Default)]
struct Table {
    widths: Option<[usize; HEADS.len()]>,
}

impl Table {
    fn write(&mut self, page: &[Listed], out: &mut impl Write) -> std::io::Result<()> {
        let is_first = self.widths.is_none();
        let widths = self.widths.get_or_insert(HEADS.map(str::len));
        let rows: Vec<_> = page.iter().map(cells).collect();
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        if is_first {
            write_row(&HEADS.map(str::to_owned), widths, out)?;
        }
        rows.iter().try_for_each(|row| write_row(row, widths, out))
    }
}

fn cells(row: &Listed) -> [String; HEADS.len()] {
    let row = Numbers::new(row);
    let none = || "-".to_owned();
    [
        row.session.to_owned(),
        row.owner.map_or_else(none, |owner| owner.to_string()),
        row.epoch.to_string(),
        row.version.to_string(),
        row.app_version.to_string(),
        row.strikes.to_string(),
        row.bytes.to_string(),
        row.wake_at.unwrap_or_else(none),
        row.updated_at,
        if row.quarantined { "quarantined".to_owned() } else { String::new() },
    ]
}

fn write_row(
    row: &[String; HEADS.len()],
    widths: &[usize; HEADS.len()],
    out: &mut impl Write,
) -> std::io::Result<()> {
    let padded = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
    let line = padded.collect::<Vec<_>>().join("  ");
    writeln!(out, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;
    use futures_util::FutureExt;
    use single_state_proto::id::{Epoch, Generation, Incarnation, WorkerIndex};
    use single_state_store::{MemoryStore, Owner, Save, Version};

    use super::*;

    /// A store with sessions of these ids.
    fn store(ids: impl Iterator<Item = String>) -> SharedStore {
        let owner = Owner {
            index: WorkerIndex(7),
            incarnation: Incarnation(1),
            generation: Generation(0),
            app_version: 3,
        };
        let store: SharedStore = Rc::new(MemoryStore::new());
        store.prepare().now_or_never().unwrap().unwrap();
        for id in ids {
            let save = Save {
                session: id.parse().unwrap(),
                epoch: Epoch(5),
                version: Version(1),
                codec: 1,
                state: Bytes::from_static(b"state"),
                wake_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60)),
                kept: Vec::new(),
                first: true,
            };
            store.save(&owner, &[save]).now_or_never().unwrap().unwrap();
        }
        store
    }

    fn print(store: &SharedStore, after: Option<&str>, limit: usize, json: bool) -> String {
        let mut out = Vec::new();
        let after = after.map(|id| id.parse().unwrap());
        list(store, after, limit, json, &mut out).now_or_never().unwrap().unwrap();
        String::from_utf8(out).unwrap()
    }

    fn ids(printed: &str) -> Vec<&str> {
        printed.lines().skip(1).filter_map(|line| line.split(' ').next()).collect()
    }

    #[test]
    fn any_number_of_rows_comes_in_the_order_of_their_ids() {
        let all: Vec<_> = (0..2 * MAX_BATCH + 3).map(|n| format!("s{n:04}")).collect();
        let store = store(all.iter().rev().cloned());
        assert_eq!(ids(&print(&store, None, usize::MAX, false)), all);
        for limit in [1, MAX_BATCH - 1, MAX_BATCH, MAX_BATCH + 1, 2 * MAX_BATCH] {
            assert_eq!(ids(&print(&store, None, limit, false)), all[..limit]);
            let behind = &all[10..all.len().min(10 + limit)];
            assert_eq!(ids(&print(&store, Some("s0009"), limit, false)), behind);
        }
        assert_eq!(print(&store, None, usize::MAX, true).lines().count(), all.len());
    }

    #[test]
    fn a_full_page_that_is_the_last_one_ends_the_list() {
        let store = store((0..MAX_BATCH).map(|n| format!("s{n:04}")));
        assert_eq!(ids(&print(&store, None, usize::MAX, false)).len(), MAX_BATCH);
    }

    #[test]
    fn a_table_of_nothing_has_its_heads() {
        let store = store(std::iter::empty());
        assert_eq!(
            print(&store, None, usize::MAX, false),
            "id  owner  epoch  version  app  strikes  bytes  wake_at  updated\n"
        );
        assert_eq!(print(&store, None, usize::MAX, true), "");
    }

    #[test]
    fn a_session_that_ends_its_workers_is_marked() {
        let store = store(["bad", "good"].map(str::to_owned).into_iter());
        let bad = [("bad".parse().unwrap(), Epoch(5))];
        for _ in 0..3 {
            store.strike(&bad).now_or_never().unwrap().unwrap();
        }
        let table = print(&store, None, usize::MAX, false);
        let lines: Vec<_> = table.lines().collect();
        let begin = |line: &str| line.split_whitespace().take(8).collect::<Vec<_>>().join(" ");
        assert_eq!(begin(lines[1]), "bad 7 5 1 3 3 5 1970-01-01T00:01:00Z");
        assert!(lines[1].ends_with("Z  quarantined"), "{table}");
        assert_eq!(begin(lines[2]), "good 7 5 1 3 0 5 1970-01-01T00:01:00Z");
        assert!(lines[2].ends_with('Z'), "{table}");

        let json = print(&store, None, 1, true);
        let row: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&row["session"], &row["quarantined"]), (&"bad".into(), &true.into()));
        assert_eq!(
            (&row["owner"], &row["epoch"], &row["bytes"]),
            (&7.into(), &5.into(), &5.into())
        );
    }
}
