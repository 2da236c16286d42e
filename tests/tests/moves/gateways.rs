//! Gateways are told to end, one after the other, and are started again.

use anyhow::{Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use single_state_tests::page::Page;
use single_state_tests::visitors::Stay;

use crate::stage::{Scene, Stage, Store};

#[tokio::test]
async fn visitors_of_gateways_that_are_told_to_end_come_back_one_by_one_and_lose_nothing()
-> Result<()> {
    for store in Store::of_this_run() {
        let mut scene = Scene::new("rolling restart of gateways", *store);
        scene.may_change_gateway = true;
        let drain = if scene.scale.is_full { "20s" } else { "3s" };
        scene.gateway_flags.push(["--drain-timeout", drain]);
        let mut stage = scene.set().await?;
        stage.begin();
        for gateway in 0..stage.fleet.gateways.len() {
            let status = stage.fleet.roll_gateway(gateway).await?;
            ensure!(status.success(), "gateway {gateway} ends with {status}");
            stage.visitors.wait_for_beats(1).await?;
        }
        end(stage).await?;
    }
    Ok(())
}

/// Plain pages were sent away, and find all that they have heard of when they come again.
async fn end(mut stage: Stage) -> Result<()> {
    let stays = stage.visitors.leave().await?;
    let (stayed, gone): (Vec<&Stay>, Vec<&Stay>) = stays.iter().partition(|stay| stay.is_numbered);
    for Stay { session, is_numbered, closed, .. } in &stays {
        let expected = if *is_numbered { None } else { Some(1012) };
        ensure!(*closed == expected, "a visitor of {session} was closed with {closed:?}");
    }
    let look = |(number, stay): (usize, &&Stay)| {
        let (session, heard) = (stay.session.clone(), stay.beats.len());
        let url = stage.fleet.url(number % 2, &format!("?session={session}"));
        let recorder = stage.recorder.clone();
        async move {
            let channel = format!("again-{number}");
            let mut page = Page::connect(&url, &channel, recorder).await?;
            let items = page.items().await?;
            ensure!(items.len() >= heard, "{session}: heard of {heard}, finds {items:?}");
            Ok(())
        }
    };
    let looking = stream::iter(gone.iter().enumerate()).map(look).buffer_unordered(64);
    looking.try_collect::<Vec<()>>().await?;
    stage.recorder.flush()?;
    let verdict = stage.judge(&stays, false)?;
    let (all, most) =
        (verdict.returned.iter().sum::<usize>(), verdict.returned.iter().max().copied());
    eprintln!(
        "{}: clients that came back in each second: {:?}",
        stage.scene.name, verdict.returned
    );
    ensure!(all >= stayed.len(), "{all} came back");
    ensure!(most < Some(all), "all came back in the same second");
    Ok(())
}
