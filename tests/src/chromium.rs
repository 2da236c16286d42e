//! Chromium for tests: one headless browser with its own profile, driven through chromedriver.
//!
//! Owns the two processes and ends them, also when a test panics. Knows nothing of gateways or of
//! what the pages show; tests bring addresses and selectors.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use single_state_tests::chromium::Chromium;
//!
//! let browser = Chromium::start().await?;
//! browser.goto("http://127.0.0.1:8000/").await?;
//! browser.click("#axpy-run").await?;
//! browser.wait_text("#axpy-result", "12, 24, 36").await?;
//! assert_eq!(browser.console_errors().await?, Vec::<String>::new());
//! # Ok(()) }
//! ```

use std::future::Future;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use fantoccini::elements::Element;
use fantoccini::wd::TimeoutConfiguration;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::{sleep, timeout};

/// How long the browser may take to start, and a page to show what a test waits for.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Where pictures of pages lie.
pub const SCREENSHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/browser/output");

/// Between two looks at a page.
const POLL: Duration = Duration::from_millis(50);

/// chromedriver is started so often before its test gives up.
const STARTS: usize = 5;

/// How long chromedriver may take to end its browser before both are killed.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Control and A, no modifier any more, Delete.
const ALL_OF_IT: &str = "\u{e009}a\u{e000}\u{e017}";

/// No window, no sandbox (CI runs as root), and no traffic of the browser's own.
const ARGUMENTS: [&str; 8] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A browser takes a core for as long as it starts, and half a gigabyte: so the tests of one process
/// take turns. A test runner that gives each test a process of its own is told in
/// `.config/nextest.toml`.
static TURN: Semaphore = Semaphore::const_new(1);

/// A running browser. Dropping it ends the browser and its driver, and deletes its profile.
///
/// A test may hold only one: a second would wait for the first to end. Tabs it may have many.
#[derive(Debug)]
pub struct Chromium {
    client: Client,
    session: String,
    driver: Driver,
    /// Dropped last, when the browser is gone.
    _turn: SemaphorePermit<'static>,
}

impl Chromium {
    /// Starts chromedriver on a free port, and a browser with an empty profile.
    pub async fn start() -> Result<Self> {
        let turn = TURN.acquire().await?;
        let driver = Driver::start().await?;
        let Value::Object(capabilities) = capabilities(driver.profile.path()) else {
            unreachable!("capabilities are an object");
        };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let address = format!("http://127.0.0.1:{}", driver.port);
        let connect = builder.capabilities(capabilities).connect(&address);
        let client =
            timeout(DEADLINE, connect).await.context("start chromium: too slow")?.context(
                "start chromium (is it installed, and of the same version as chromedriver?)",
            )?;
        let limit = Some(DEADLINE);
        client.update_timeouts(TimeoutConfiguration::new(limit, limit, None)).await?;
        let session = client.session_id().await?.context("chromedriver gave no session id")?;
        Ok(Self { client, session, driver, _turn: turn })
    }

    /// The WebDriver client, for what has no helper here (tabs, cookies, window size).
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Opens an address and waits until the page has loaded (its scripts may still be at work).
    pub async fn goto(&self, url: &str) -> Result<()> {
        self.client.goto(url).await.with_context(|| format!("open {url}"))
    }

    /// The visible text of the first element that matches a CSS selector, which must be there.
    pub async fn text(&self, selector: &str) -> Result<String> {
        self.find(selector).await?.text().await.with_context(|| format!("read {selector}"))
    }

    /// Waits until the element is there and clicks it.
    pub async fn click(&self, selector: &str) -> Result<()> {
        let element = self.appears(selector).await?;
        element.click().await.with_context(|| format!("click {selector}"))
    }

    /// Waits until the input field is there and replaces what it holds, key by key.
    pub async fn fill(&self, selector: &str, text: &str) -> Result<()> {
        let element = self.appears(selector).await?;
        // As a person does it. WebDriver's own "clear" is no key: a page that draws itself from its
        // state puts the old text back.
        let keys = format!("{ALL_OF_IT}{text}");
        element.send_keys(&keys).await.with_context(|| format!("type into {selector}"))
    }

    /// Waits until the element's visible text is exactly `expected`.
    pub async fn wait_text(&self, selector: &str, expected: &str) -> Result<()> {
        self.wait_text_that(selector, |text| text == expected)
            .await
            .with_context(|| format!("wait for {selector} to be {expected:?}"))
            .map(drop)
    }

    /// Waits until the element's visible text pleases `accept`, and returns that text.
    pub async fn wait_text_that(
        &self,
        selector: &str,
        accept: impl Fn(&str) -> bool,
    ) -> Result<String> {
        poll(|| async {
            let text = self.text(selector).await?;
            if accept(&text) { Ok(text) } else { Err(anyhow!("{selector} shows {text:?}")) }
        })
        .await
    }

    /// Waits until a JavaScript expression is true in the page.
    pub async fn wait_until(&self, expression: &str) -> Result<()> {
        let script = format!("return Boolean({expression})");
        poll(|| async {
            match self.run(&script).await? {
                Value::Bool(true) => Ok(()),
                _ => bail!("{expression} is not true"),
            }
        })
        .await
    }

    /// Runs the body of a JavaScript function in the page, and returns what it returns.
    pub async fn run(&self, script: &str) -> Result<Value> {
        self.client.execute(script, vec![]).await.with_context(|| format!("run {script:?}"))
    }

    /// Writes what the window shows into a PNG file of this name, for a person to look at.
    pub async fn screenshot(&self, name: &str) -> Result<()> {
        let png = self.client.screenshot().await.context("take a screenshot")?;
        std::fs::create_dir_all(SCREENSHOTS)?;
        let path = Path::new(SCREENSHOTS).join(name);
        std::fs::write(&path, png).with_context(|| format!("write {}", path.display()))
    }

    /// Takes a picture of the whole page at this width, and fails if it can be scrolled sideways.
    pub async fn fits(&self, width: u32, name: &str) -> Result<()> {
        let size = |height: &Value| json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size(&json!(900))).await?;
        self.wait_until(&format!("innerWidth === {width}")).await?;
        let height = self.run("return document.documentElement.scrollHeight").await?;
        let wide = self.run("return document.documentElement.scrollWidth").await?;
        self.devtools("Emulation.setDeviceMetricsOverride", size(&height)).await?;
        self.screenshot(name).await?;
        self.devtools("Emulation.clearDeviceMetricsOverride", json!({})).await?;
        ensure!(wide.as_u64() <= Some(width.into()), "{name} is {wide} px wide, not {width}");
        Ok(())
    }

    /// The errors that the page wrote to its console since the last call, uncaught ones and
    /// failed fetches included.
    pub async fn console_errors(&self) -> Result<Vec<String>> {
        let Value::Array(entries) = self.command("se/log", json!({"type": "browser"})).await?
        else {
            bail!("chromedriver's log is no list");
        };
        let errors = entries.iter().filter(|entry| entry["level"] == "SEVERE");
        Ok(errors.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// A command of the DevTools protocol: dark mode, an offline network and the like.
    pub async fn devtools(&self, method: &str, params: Value) -> Result<Value> {
        self.command("goog/cdp/execute", json!({"cmd": method, "params": params})).await
    }

    /// A WebDriver command that fantoccini does not know.
    async fn command(&self, name: &str, body: Value) -> Result<Value> {
        let port = self.driver.port;
        let path = format!("/session/{}/{name}", self.session);
        let body = body.to_string();
        let answer =
            tokio::task::spawn_blocking(move || http(port, "POST", &path, &body, DEADLINE))
                .await?
                .with_context(|| format!("ask chromedriver for {name}"))?;
        let mut answer: Value = serde_json::from_str(&answer).context("read chromedriver")?;
        if let Some(error) = answer["value"]["error"].as_str() {
            bail!("{name}: {error}: {}", answer["value"]["message"]);
        }
        Ok(answer["value"].take())
    }

    async fn find(&self, selector: &str) -> Result<Element> {
        let found = self.client.find(Locator::Css(selector)).await;
        found.with_context(|| format!("find {selector}"))
    }

    async fn appears(&self, selector: &str) -> Result<Element> {
        poll(|| self.find(selector)).await
    }
}

/// Tries until it succeeds; at the deadline, the last failure says what was missing. An element
/// that the page replaced between two commands is such a failure too, so all are retried.
async fn poll<T, F: Future<Output = Result<T>>>(mut attempt: impl FnMut() -> F) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > DEADLINE => {
                return Err(error.context(format!("waited {} s", DEADLINE.as_secs())));
            }
            Err(_) => sleep(POLL).await,
        }
    }
}

fn capabilities(profile: &Path) -> Value {
    let mut arguments = ARGUMENTS.map(str::to_owned).to_vec();
    arguments.push(profile_argument(profile));
    json!({
        "browserName": "chrome",
        "goog:chromeOptions": { "args": arguments },
        "goog:loggingPrefs": { "browser": "ALL" },
    })
}

fn profile_argument(profile: &Path) -> String {
    format!("--user-data-dir={}", profile.display())
}

/// The chromedriver process, and the profile of the one browser that it starts.
///
/// It stays in the test's process group, so that a test runner that kills a hanging test, or
/// Ctrl-C, ends the browser too.
#[derive(Debug)]
struct Driver {
    process: Child,
    port: u16,
    profile: TempDir,
}

impl Driver {
    /// It wants a port that is free in IPv4 and in IPv6, and looks in one of them only before it
    /// ends: then another one is tried.
    async fn start() -> Result<Self> {
        for _ in 1..STARTS {
            if let Ok(driver) = Self::start_once().await {
                return Ok(driver);
            }
        }
        Self::start_once().await
    }

    async fn start_once() -> Result<Self> {
        let profile = TempDir::with_prefix("single-state-chromium-")?;
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start chromedriver (tests/setup.sh test installs it)")?;
        let stdout = process.stdout.take().context("chromedriver has no stdout")?;
        // From here on the process is ended on drop, whatever follows.
        let mut driver = Self { process, port: 0, profile };
        let (send, receive) = oneshot::channel();
        std::thread::spawn(move || read_port(stdout, send));
        driver.port = timeout(DEADLINE, receive)
            .await
            .context("chromedriver names no port in time")?
            .context("chromedriver ended before it named its port")?;
        Ok(driver)
    }

    /// Asks nicely: chromedriver then closes its browser, and both exit.
    fn shut_down(&mut self) -> io::Result<()> {
        http(self.port, "GET", "/shutdown", "", SHUTDOWN)?;
        let start = Instant::now();
        while self.process.try_wait()?.is_none() {
            if start.elapsed() > SHUTDOWN {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.shut_down().is_err() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        kill_processes_with(&profile_argument(self.profile.path()));
    }
}

/// Finds the port in chromedriver's output, then reads on: a full pipe would stop the driver.
fn read_port(stdout: ChildStdout, send: oneshot::Sender<u16>) {
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    if let Some(port) = lines.find_map(|line| port_in(&line)) {
        let _ = send.send(port);
    }
    lines.for_each(drop);
}

fn port_in(line: &str) -> Option<u16> {
    let (_, port) = line.split_once("started successfully on port ")?;
    port.trim_end_matches('.').parse().ok()
}

/// The net under the nice way: kills each process with this argument, which only the browser of
/// this very profile has. Its children follow it.
fn kill_processes_with(argument: &str) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let Ok(command_line) = std::fs::read(process.path().join("cmdline")) else { continue };
        if command_line.split(|&byte| byte == 0).any(|part| part == argument.as_bytes()) {
            let _ = Command::new("kill").arg("-9").arg(process.file_name()).status();
        }
    }
}

/// One HTTP request to chromedriver, blocking, so that `drop` can make one too; returns the body.
fn http(port: u16, method: &str, path: &str, body: &str, limit: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    // Chromedriver keeps the connection open, so the answer ends where its length says.
    let mut answer = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        answer.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = String::new();
    answer.take(length).read_to_string(&mut body)?;
    Ok(body)
}
