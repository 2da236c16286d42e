//! A plain page that appends items and numbers them for its history only: each of its sockets is a
//! channel.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use single_state_tests::browser::Browser;
use single_state_tests::history::{End, Recorder, What};
use tokio::time::{Instant, sleep_until};

pub(crate) struct Page {
    url: String,
    recorder: Recorder,
    name: String,
    session: String,
    pace: Duration,
    sockets: u64,
    items: u64,
}

impl Page {
    /// The page of this name, which appends so often to the session that the address names.
    pub(crate) fn new(url: String, name: String, pace: Duration, recorder: Recorder) -> Self {
        let session = url.rsplit('=').next().unwrap_or_default().to_owned();
        Self { url, recorder, name, session, pace, sockets: 0, items: 0 }
    }

    /// Appends until then, over one socket after another, each time as if it were new; and asks for
    /// the list over another one.
    pub(crate) async fn append_over_and_over(mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            self.sockets += 1;
            if let Ok(mut browser) = Browser::connect(&self.url).await {
                // It ends with the socket.
                let _ = self.talk(&mut browser, until).await;
                self.record(|channel| What::Closed { channel, code: 1006, end: End::Network });
            }
            sleep_until(Instant::now() + self.pace).await;
        }
        self.sockets += 1;
        let mut browser = Browser::connect(&self.url).await?;
        self.ask(&mut browser, 1).await
    }

    /// Appends until then over a socket that must stay, and asks for the list over it; how many items
    /// there are.
    pub(crate) async fn append_over_one_socket(mut self, until: Instant) -> Result<u64> {
        self.sockets += 1;
        let mut browser = Browser::connect(&self.url).await?;
        let outcome = match self.talk(&mut browser, until).await {
            Ok(said) => self.ask(&mut browser, said + 1).await,
            Err(error) => Err(error),
        };
        outcome
            .with_context(|| format!("the socket of {} after {} items", self.name, self.items))?;
        Ok(self.items)
    }

    async fn talk(&mut self, browser: &mut Browser, until: Instant) -> Result<u64> {
        let mut said = 0;
        while Instant::now() < until {
            said += 1;
            self.items += 1;
            let item = format!("{}-{}", self.name, self.items);
            self.record(|channel| What::Send { channel, n: said, item: Some(item.clone()) });
            browser.send(json!({"tag": "append", "item": item})).await?;
            while browser.try_receive().is_some() {}
            sleep_until(Instant::now() + self.pace).await;
        }
        Ok(said)
    }

    /// Asks for the list as the socket's message of this number.
    async fn ask(&self, browser: &mut Browser, n: u64) -> Result<()> {
        self.record(|channel| What::Send { channel, n, item: None });
        browser.send(json!({"tag": "items"})).await?;
        let list = browser.receive_where(|message| message["tag"] == "items").await?;
        let items: Vec<String> = serde_json::from_value(list["items"].clone())?;
        ensure!(!items.is_empty(), "a page has been able to say nothing");
        self.record(|channel| What::Found { channel, after: n, items });
        Ok(())
    }

    fn record(&self, what: impl FnOnce(String) -> What) {
        let channel = format!("{}-{}", self.name, self.sockets);
        self.recorder.record(&self.name, &self.session, || what(channel));
    }
}
