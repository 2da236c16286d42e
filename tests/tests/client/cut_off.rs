//! How much arrives when a client is cut off again and again: numbered messages each way of a client
//! of `single-state.v1`, and beside it of a bare websocket that reconnects, over one proxy, to
//! sessions of one app.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use serde_json::{Value, json};
use single_state_tests::browser::Browser;
use single_state_tests::client::{Client, Heard, Manners};
use single_state_tests::cluster::{Cluster, Options};
use single_state_tests::proxy::{Faults, Proxy};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use crate::seconds;

/// A message goes each way so often: 10,000 in two minutes.
const PACE: Duration = Duration::from_millis(12);
/// A client is cut off for so long, and connected for three times as long; a shorter run has
/// shorter cuts.
const CUT: Duration = Duration::from_secs(2);
/// How often the bare websocket tries to connect.
const AGAIN: Duration = Duration::from_millis(100);

/// How many messages there are each way, and until when connections are cut.
#[derive(Clone, Copy)]
struct Plan {
    messages: u64,
    cut: Duration,
    until: Instant,
}

/// Numbers as they have arrived.
#[derive(Default)]
struct Arrived(Vec<u64>);

/// What became of one client's messages.
#[derive(Default)]
struct Delivered {
    up: Arrived,
    down: Arrived,
    connections: u64,
}

#[tokio::test]
async fn who_is_cut_off_gets_and_delivers_all_with_our_client_and_not_with_a_bare_websocket()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = format!("sqlite:{}", folder.path().join("x.sqlite").display());
    let options = Options { workers: 2, ..Options::fixture() }.store(&store);
    let cluster = Cluster::start(options).await?;
    let proxy = Proxy::start(&cluster.gateway.address).await?;
    let duration = seconds("SINGLE_STATE_TEST_CUTS_SECONDS");
    let url = |session: &str| format!("ws://{}/ws?session={session}", proxy.address());
    // Events go to who is there: nothing is told before both are.
    // A session keeps 1,000 events, 12 s of these, for whoever is away: it must not wait for longer.
    let manners = Manners { longest_wait: Duration::from_secs(4), ..Manners::default() };
    let mut client = Client::new(&url("ours"), manners);
    client.open().await?;
    let socket = Browser::connect(&url("bare")).await?;
    let plan = Plan {
        messages: (duration.as_millis() / PACE.as_millis()) as u64,
        cut: CUT.min(duration / 12),
        until: Instant::now() + duration,
    };
    let (cuts, ours, bare, ..) = tokio::try_join!(
        async { Ok(cut_off(&proxy, plan).await) },
        client_of_ours(client, plan),
        bare_websocket(socket, url("bare"), plan),
        tell(&cluster, "ours", plan),
        tell(&cluster, "bare", plan),
    )?;
    eprintln!("{cuts} cuts of {:?} in {duration:?}, {} messages each way", plan.cut, plan.messages);
    eprintln!("| client | up | down | twice | out of order | connections |");
    eprintln!("|---|---|---|---|---|---|");
    eprintln!("{}", ours.row("single-state.v1", plan));
    eprintln!("{}", bare.row("bare websocket", plan));

    let all: Vec<_> = (1..=plan.messages).collect();
    for (way, arrived) in [("up", &ours.up), ("down", &ours.down)] {
        let odd = arrived.0.iter().zip(&all).find(|(got, due)| got != due);
        ensure!(arrived.0 == all, "{way}, ours has lost, doubled or shuffled: {odd:?}");
    }
    ensure!(cuts > 0 && ours.connections > 1, "{cuts} cuts, {} connections", ours.connections);
    for arrived in [&bare.up, &bare.down] {
        ensure!(arrived.distinct() < plan.messages, "nothing is lost by a bare websocket either");
    }
    Ok(())
}

/// Cuts all connections and lets no other be made for a while, again and again; how often.
async fn cut_off(proxy: &Proxy, plan: Plan) -> usize {
    let mut cuts = 0;
    while Instant::now() + 4 * plan.cut < plan.until {
        sleep(3 * plan.cut).await;
        proxy.set(Faults { refuse: true, ..Faults::default() });
        proxy.cut();
        sleep(plan.cut).await;
        proxy.heal();
        cuts += 1;
    }
    cuts
}

/// What another page has told goes to all of its session.
async fn tell(cluster: &Cluster, session: &str, plan: Plan) -> Result<()> {
    let mut page = Browser::connect(&cluster.url(&format!("?session={session}"))).await?;
    let (mut pace, mut heard) = (interval(PACE), Delivered::default());
    for n in 1..=plan.messages {
        page.send(json!({"tag": "tell", "n": n})).await?;
        let next = pace.tick().await + PACE;
        while let Ok(message) = timeout_at(next, page.receive()).await {
            heard.hear(&message?)?;
        }
    }
    // What is on its way when a page goes would be lost.
    while heard.down.last() != plan.messages {
        heard.hear(&page.receive().await?)?;
    }
    Ok(())
}

async fn client_of_ours(mut client: Client, plan: Plan) -> Result<Delivered> {
    let mut delivered = Delivered::default();
    let mut pace = interval(PACE);
    for n in 1..=plan.messages {
        client.publish(&json!({"tag": "append", "n": n})).await?;
        let next = pace.tick().await + PACE;
        while let Ok(heard) = timeout_at(next, client.next()).await {
            if let Heard::Output { body, .. } = heard? {
                delivered.hear(&body)?;
            }
        }
    }
    client.publish(&json!({"tag": "list"})).await?;
    while !delivered.is_complete(plan) {
        if let Heard::Output { body, .. } = client.hear_soon().await? {
            delivered.hear(&body)?;
        }
    }
    Ok(Delivered { connections: client.connections(), ..delivered })
}

/// As pages do it: what it says while it has no socket goes nowhere, as with `WebSocket.send`.
async fn bare_websocket(socket: Browser, url: String, plan: Plan) -> Result<Delivered> {
    let mut socket = Some(socket);
    let mut delivered = Delivered { connections: 1, ..Delivered::default() };
    let (mut pace, mut again) = (interval(PACE), interval(AGAIN));
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for n in 1..=plan.messages {
        let next = pace.tick().await + PACE;
        if socket.is_none() && again.tick().now_or_never().is_some() {
            socket = Browser::connect(&url).await.ok();
            delivered.connections += u64::from(socket.is_some());
        }
        if let Some(browser) = &mut socket
            && exchange(browser, n, next, &mut delivered).await.is_err()
        {
            socket = None;
        }
    }
    let mut browser = socket.context("it is connected when no more connections are cut")?;
    browser.send(json!({"tag": "list"})).await?;
    while !delivered.is_complete(plan) {
        delivered.hear(&browser.receive().await?)?;
    }
    Ok(delivered)
}

/// Says one message, and hears what comes until the next one.
async fn exchange(
    browser: &mut Browser,
    n: u64,
    next: Instant,
    delivered: &mut Delivered,
) -> Result<()> {
    browser.send(json!({"tag": "append", "n": n})).await?;
    while let Ok(message) = timeout_at(next, browser.receive()).await {
        delivered.hear(&message?)?;
    }
    Ok(())
}

impl Delivered {
    fn hear(&mut self, message: &Value) -> Result<()> {
        if message["tag"] == "told" {
            self.down.0.push(message["n"].as_u64().context("a number")?);
        } else if message["tag"] == "list" {
            self.up.0 = serde_json::from_value(message["items"].clone())?;
        }
        Ok(())
    }

    /// The last messages of both ways are there.
    fn is_complete(&self, plan: Plan) -> bool {
        self.up.last() == plan.messages && self.down.last() == plan.messages
    }

    fn row(&self, name: &str, plan: Plan) -> String {
        let Self { up, down, connections } = self;
        let arrived = |arrived: &Arrived| {
            let count = arrived.distinct();
            format!("{count} ({:.1}%)", 100.0 * count as f64 / plan.messages as f64)
        };
        let (twice, unordered) = (up.twice() + down.twice(), up.unordered() + down.unordered());
        let (up, down) = (arrived(up), arrived(down));
        format!("| {name} | {up} | {down} | {twice} | {unordered} | {connections} |")
    }
}

impl Arrived {
    fn last(&self) -> u64 {
        self.0.last().copied().unwrap_or(0)
    }

    fn distinct(&self) -> u64 {
        self.0.iter().collect::<BTreeSet<_>>().len() as u64
    }

    fn twice(&self) -> u64 {
        self.0.len() as u64 - self.distinct()
    }

    fn unordered(&self) -> usize {
        self.0.windows(2).filter(|pair| pair[1] < pair[0]).count()
    }
}
