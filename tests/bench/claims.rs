//! Claims of rows that exist, as workers claim: one statement at a time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use single_state_proto::id::Epoch;
use single_state_store::{Claim, Claimed, Manners};

use crate::database::{Bare, both};
use crate::meter::{self, Reading};
use crate::saves::{OWNER, Rows};
use crate::table::Table;

const WINDOW: Duration = Duration::from_millis(1500);
/// Alone, and as many as a worker asks for with one statement.
const BATCHES: [usize; 2] = [1, 64];

pub(crate) async fn run() -> Result<Table> {
    let mut table = Table::new(
        "Claims of rows with 2 KiB",
        &["store", "claims at a time", "claims/s", "client µs", "database µs"],
    );
    for bare in &both().await? {
        let rows = Rows::new(2048);
        rows.fill(bare).await?;
        for batch in BATCHES {
            let before = Reading::take(&bare.meters)?;
            let began = Instant::now();
            let claimed = claim_for(bare, &rows, batch).await?;
            let took = began.elapsed().as_secs_f64();
            let cpu = Reading::take(&bare.meters)?.since(&before);
            table.rows.push(vec![
                bare.name.into(),
                batch.to_string().into(),
                (claimed as f64 / took).into(),
                meter::each(&cpu, 0, claimed as f64),
                meter::each(&cpu, 1, claimed as f64),
            ]);
        }
    }
    table.note("Each claim is a commit that is flushed, and brings the state along.");
    Ok(table)
}

async fn claim_for(bare: &Bare, rows: &Rows, batch: usize) -> Result<usize> {
    let until = Instant::now() + WINDOW;
    let mut claimed = 0;
    while Instant::now() < until {
        let indexes = (claimed..claimed + batch).map(|n| n % rows.len());
        let claims =
            indexes.map(|index| Ok(Claim { session: rows.id(index).parse()?, at_least: Epoch(0) }));
        let claims: Vec<Claim> = claims.collect::<Result<_>>()?;
        let found = bare.store.claim(&OWNER, &Manners::default(), &claims).await?;
        let is_whole = |one: &Claimed| match one {
            Claimed::Owned(row) => row.state.as_ref().is_some_and(|state| state.len() == 2048),
            Claimed::Held(_) => false,
        };
        ensure!(found.iter().all(is_whole), "a row was not claimed with its state");
        claimed += batch;
    }
    Ok(claimed)
}
