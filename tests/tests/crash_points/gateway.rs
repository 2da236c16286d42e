//! A gateway dies: clients of `single-state.v1` come again through another one, with the same numbers,
//! and pages lose no more than what was on its way.

use anyhow::{Result, ensure};
use single_state_faults::Point;
use single_state_tests::faults::{Faults, Victim};
use single_state_tests::trial::{Case, Store, Trial, must_be_killed};

fn dies(point: Point, nth: u32) -> Faults {
    Faults::kill(Victim::Gateway, point, nth)
}

async fn start(point: Point, nth: u32) -> Result<Trial> {
    Trial::start(Case::new(Store::Sqlite, dies(point, nth))).await
}

/// It is found dead, and another one takes its place.
async fn is_replaced(mut trial: Trial) -> Result<()> {
    must_be_killed(trial.cluster.gateway.process.wait().await?)?;
    trial.cluster.start_gateway_again().await?;
    trial.visitors.wait_for_beats(3).await?;
    let pages = trial.visitors.gone().await?;
    let verdict = trial.end(false).await?.must_be_clean()?;
    ensure!(pages == 4, "{pages} of the 4 pages have noticed");
    ensure!(!verdict.returned.is_empty(), "no client has come again");
    Ok(())
}

#[tokio::test]
async fn clients_notice_nothing_of_a_gateway_that_dies_with_an_input_that_it_has_read() -> Result<()>
{
    is_replaced(start(Point::InputRead, 40).await?).await
}

#[tokio::test]
async fn clients_notice_nothing_of_a_gateway_that_dies_with_an_acknowledgement() -> Result<()> {
    is_replaced(start(Point::Forwarded, 9).await?).await
}

/// Four clients are welcomed when they come, and two again when their worker dies.
#[tokio::test]
async fn clients_notice_nothing_of_a_gateway_that_dies_in_the_middle_of_a_welcome() -> Result<()> {
    let mut trial = start(Point::WelcomeHalfSent, 5).await?;
    trial.visitors.wait_for_beats(1).await?;
    trial.cluster.kill_worker(1).await?;
    is_replaced(trial).await
}

#[tokio::test]
async fn clients_notice_nothing_of_a_gateway_that_dies_in_its_drain() -> Result<()> {
    let mut trial = start(Point::SendingAway, 3).await?;
    trial.visitors.wait_for_beats(1).await?;
    trial.cluster.gateway.process.signal("TERM")?;
    is_replaced(trial).await
}
