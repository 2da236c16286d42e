//! What a page may ask of `gateway dev`: to kill, drain, start and stop workers, while nothing breaks.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use single_state_tests::cluster::http;
use single_state_tests::dev::{Dev, Project};

use crate::{browsers_of_all_workers, serve};

/// The status of a POST of a page of this origin; `None` is no page.
async fn ask(dev: &Dev, path: &str, origin: Option<&str>) -> Result<u16> {
    let host = &dev.gateway.address;
    let origin = origin.map_or_else(String::new, |origin| format!("origin: {origin}\r\n"));
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\n{origin}content-length: 0\r\nconnection: close\r\n\r\n"
    );
    let answer = http(host, &request).await?;
    Ok(answer.split(' ').nth(1).unwrap_or_default().parse()?)
}

fn up(status: &Value) -> usize {
    let workers = status["workers"].as_array().into_iter().flatten();
    workers.filter(|worker| worker["state"] == "up" && worker["retired"] == false).count()
}

#[tokio::test]
async fn workers_are_killed_drained_added_and_removed_and_no_page_is_disconnected() -> Result<()> {
    let project = Project::new().await?;
    let dev = project.dev(&[]).await?;
    let mut browsers = browsers_of_all_workers(&dev).await?;
    let page = format!("http://{}", dev.gateway.address);
    let page = Some(page.as_str());
    for (number, browser) in browsers.iter_mut().enumerate() {
        browser.send(json!({"tag": "append", "item": format!("of {number}")})).await?;
        browser.wait_for("count", &json!(1)).await?;
    }

    for workers in [5, 2, 1, 3] {
        ensure!(ask(&dev, &format!("/dev/scale?workers={workers}"), page).await? == 202);
        dev.wait_for_status(|status| up(status) == workers).await?;
        serve(&mut browsers).await?;
    }
    for path in ["/dev/drain?worker=0", "/dev/kill?worker=1"] {
        let before = dev.incarnations().await?;
        ensure!(ask(&dev, path, page).await? == 202);
        dev.wait_for_status(|status| {
            let now = status["workers"].as_array().into_iter().flatten();
            now.zip(&before).filter(|(now, before)| now["incarnation"] != **before).count() == 1
                && up(status) == 3
        })
        .await?;
        serve(&mut browsers).await?;
    }
    for (number, browser) in browsers.iter_mut().enumerate() {
        browser.send(json!({"tag": "items"})).await?;
        let items = browser.receive_where(|message| message["tag"] == "items").await?;
        assert_eq!(items["items"], json!([format!("of {number}")]));
    }
    dev.stop().await?;
    Ok(())
}

#[tokio::test]
async fn only_pages_of_the_own_address_are_obeyed_and_bad_wishes_are_refused() -> Result<()> {
    let project = Project::new().await?;
    let dev = project.dev(&["--workers", "1"]).await?;
    let before = dev.incarnations().await?;
    let own = format!("http://{}", dev.gateway.address);
    for (path, origin, status) in [
        ("/dev/kill?worker=0", Some("http://evil.example"), 403),
        ("/dev/kill?worker=0", Some("null"), 403),
        ("/dev/kill?worker=x", Some(own.as_str()), 400),
        ("/dev/scale?workers=1000000", Some(own.as_str()), 400),
        ("/dev/restart", Some(own.as_str()), 404),
        ("/dev/kill?worker=7", None, 202),
    ] {
        assert_eq!(ask(&dev, path, origin).await?, status, "{path} of {origin:?}");
    }
    assert_eq!(dev.gateway.get("/dev/kill?worker=0").await?.0, 405);
    assert_eq!(dev.incarnations().await?, before);
    Ok(())
}
