//! What a person at a browser sees of sessions that outlive their workers, and of ones that do not.

use anyhow::{Result, ensure};
use single_state_tests::chromium::Chromium;
use single_state_tests::dev::Project;
use single_state_tests::process::program;

use super::{
    PAGE_2020, dev_with_modules, dismiss, has, one_open_socket, owner, vendor, watch_sockets,
};

#[tokio::test]
async fn notes_and_a_trained_model_are_there_after_their_worker_was_killed() -> Result<()> {
    let project = Project::new().await?;
    let dev = dev_with_modules(&project).await?;
    let browser = Chromium::start().await?;
    watch_sockets(&browser).await?;
    browser.goto(&dev.page("/")).await?;
    fill_session(&browser).await?;
    let before = owner(&browser).await?;
    let shown = browser.text("#owner").await?;
    let loss = browser.text("#train-loss").await?;

    dev.kill_worker(before.1)?;
    browser.wait_text_that("#notice", |text| text.contains("Your session went on")).await?;
    assert_eq!(owner(&browser).await?.0, before.0, "the same session");
    assert_ne!(browser.text("#owner").await?, shown, "in another process");
    let seen = "const { top, bottom } = document.getElementById('notice') \
        .getBoundingClientRect(); return top >= 0 && bottom <= innerHeight";
    browser.run("scrollTo(0, document.body.scrollHeight)").await?;
    assert_eq!(browser.run(seen).await?, true, "also by who has scrolled down");
    browser.screenshot("demo-restarted.png").await?;
    browser.fits(400, "demo-restarted-400.png").await?;
    dismiss(&browser, "notice").await?;

    session_is_full(&browser).await?;
    browser.wait_text("#train-loss", &loss).await?;
    // The same model trains on, and what is new comes to what was there.
    browser.fill("#append-item", "second").await?;
    browser.click("#append-run").await?;
    browser.wait_text("#items", "first\nsecond").await?;
    assert!(!has(&browser, "#error, #lost-banner").await?);
    one_open_socket(&browser).await?;
    assert_eq!(dev.gateway.metric("single_state_connections").await?, 1.0);
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_page_finds_its_session_again_after_gateway_dev_was_stopped_and_started() -> Result<()> {
    let project = Project::new().await?;
    let dev = dev_with_modules(&project).await?;
    let browser = Chromium::start().await?;
    watch_sockets(&browser).await?;
    browser.goto(&dev.page("/")).await?;
    fill_session(&browser).await?;
    let (session, _) = owner(&browser).await?;
    let loss = browser.text("#train-loss").await?;
    let address = dev.gateway.address.clone();
    let output = dev.stop().await?;
    assert!(!output.contains("instead of leaving"), "a worker was killed:\n{output}");
    browser.wait_text_that("#connection", |text| text.contains("trying again in")).await?;

    // The open page comes back by itself; what it shows is the session's, not what it had.
    let again = ["dev", "--listen", &address, "--vendor", vendor()?, "--", "bin/worker"];
    let dev = Project::start(project.gateway(&again)).await?;
    browser.wait_text_that("#notice", |text| text.contains("Your session went on")).await?;
    is_there_again(&browser, &session, &loss).await?;

    browser.goto(&dev.page("/")).await?;
    is_there_again(&browser, &session, &loss).await?;
    assert!(!has(&browser, "#notice").await?, "it knows of no other worker");
    Ok(())
}

/// The cookie's session, as it was filled; its list is to be asked for.
async fn is_there_again(browser: &Chromium, session: &str, loss: &str) -> Result<()> {
    assert_eq!(owner(browser).await?.0, session);
    browser.wait_text("#train-loss", loss).await?;
    browser.click("#items-run").await?;
    session_is_full(browser).await?;
    assert!(!has(browser, "#error, #lost-banner").await?);
    Ok(())
}

/// One note, which is listed, and a model that is trained.
async fn fill_session(browser: &Chromium) -> Result<()> {
    browser.fill("#append-item", "first").await?;
    browser.click("#append-run").await?;
    browser.wait_text("#count", "1").await?;
    browser.click("#items-run").await?;
    // Short enough to see its end.
    browser.run("session.publish({tag: 'train', steps: 5})").await?;
    session_is_full(browser).await
}

async fn session_is_full(browser: &Chromium) -> Result<()> {
    browser.wait_text("#count", "1").await?;
    browser.wait_text("#items", "first").await?;
    browser.wait_text("#train-state", "done").await?;
    browser.wait_text("#train-done", "5").await
}

#[tokio::test]
async fn a_training_goes_on_from_its_last_save_when_its_worker_is_killed() -> Result<()> {
    let project = Project::new().await?;
    let dev = dev_with_modules(&project).await?;
    let browser = Chromium::start().await?;
    watch_sockets(&browser).await?;
    browser.goto(&dev.page("/")).await?;
    browser.run("session.publish({tag: 'train', steps: 10000})").await?;
    browser.wait_until("document.getElementById('train-done')?.textContent >= 30").await?;
    let (_, worker) = owner(&browser).await?;
    dev.wait_until_saved(worker).await?;

    // From here on the page notes the earliest step that it shows.
    // What is shown of a full picture may be another element than before.
    let watch = "window.earliest = Infinity; \
        const shown = () => Number(document.getElementById('train-done')?.textContent ?? NaN); \
        new MutationObserver(() => { \
            if (shown() < earliest) window.earliest = shown(); \
        }).observe(document.getElementById('app'), {characterData: true, childList: true, subtree: true}); \
        return shown()";
    let before = browser.run(watch).await?;
    dev.kill_worker(worker)?;
    browser.wait_text_that("#notice", |text| text.contains("Your session went on")).await?;
    let further = format!("document.getElementById('train-done').textContent > {before}");
    browser.wait_until(&further).await?;
    assert_eq!(browser.text("#train-state").await?, "running");
    let earliest = browser.run("return earliest").await?;
    let kept = earliest.as_u64() >= Some(30);
    ensure!(kept, "step 30 was saved, but the training went on from step {earliest}");
    assert!(!has(&browser, "#error, #lost-banner").await?);
    one_open_socket(&browser).await?;
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_store_in_memory_loses_the_session_with_its_worker_and_the_page_says_so() -> Result<()> {
    let project = Project::new().await?;
    let dev = project.dev(&["--vendor", vendor()?, "--store", "memory:"]).await?;
    let browser = Chromium::start().await?;
    watch_sockets(&browser).await?;
    browser.goto(&dev.page("/")).await?;
    browser.fill("#append-item", "soon lost").await?;
    browser.click("#append-run").await?;
    browser.wait_text("#count", "1").await?;
    let before = owner(&browser).await?;
    assert!(!has(&browser, "#lost-banner").await?);

    dev.kill_worker(before.1)?;
    let words = "your session started again from nothing";
    browser.wait_text_that("#lost-banner", |text| text.contains(words)).await?;
    assert_eq!(owner(&browser).await?.0, before.0, "the same session");
    let seen = "const { top, bottom } = document.getElementById('lost-banner') \
        .getBoundingClientRect(); return scrollY > 0 && top >= 0 && bottom <= innerHeight";
    assert_eq!(browser.run(seen).await?, true, "also by who has scrolled down");
    browser.screenshot("demo-lost.png").await?;
    dismiss(&browser, "lost-banner").await?;
    browser.click("#axpy-run").await?;
    browser.wait_text("#axpy-result", "12, 24, 36").await?;
    browser.fill("#append-item", "the first one again").await?;
    browser.click("#append-run").await?;
    browser.click("#items-run").await?;
    browser.wait_text("#items", "the first one again").await?;
    browser.wait_text("#count", "1").await?;

    assert!(!has(&browser, "#notice").await?, "nothing went on");
    one_open_socket(&browser).await?;
    assert_eq!(dev.gateway.metric("single_state_connections").await?, 1.0);
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_state_that_the_new_program_cannot_read_is_reset_and_the_page_says_so() -> Result<()> {
    let project = Project::with_worker(&program("examples/counter")).await?;
    let dev = project.dev(&["--web", PAGE_2020, "--vendor", vendor()?]).await?;
    let browser = Chromium::start().await?;
    watch_sockets(&browser).await?;
    browser.goto(&dev.page("/")).await?;
    browser.wait_text("#count", "0").await?;
    browser.run("sockets[0].send(JSON.stringify({tag: 'add', n: 2}))").await?;
    browser.wait_text("#count", "2").await?;

    // The counter has no notes, and the demo no count: neither reads the other's state.
    let before = dev.incarnations().await?;
    project.install(&program("worker")).await?;
    dev.wait_until_rolled(&before).await?;
    let words = "saved state could not be read, so it starts from nothing";
    browser.wait_text_that("#error", |text| text.contains(words)).await?;
    browser.fits(800, "page-2020-reset.png").await?;
    browser.fill("#append-item", "of the new program").await?;
    browser.click("#append-run").await?;
    browser.wait_text("#count", "1").await?;
    one_open_socket(&browser).await?;
    assert_eq!(browser.console_errors().await?, [""; 0]);
    Ok(())
}
