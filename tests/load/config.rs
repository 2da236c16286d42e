//! What a run is to do: flags, checked all at once.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use single_state_gateway::token::{KeyRing, Seconds};
use single_state_node::config::Mistakes;
use single_state_proto::id::SessionId;

use crate::limits;
use crate::news::Part;
use crate::usage::Watched;
use crate::workload::Workload;

/// What else the program does.
const OTHERS: &str = "\
`swarm nemesis` does faults of all kinds to a cluster of its own: see `swarm nemesis --help`
`swarm soak` watches a cluster of its own for hours: see `swarm soak --help`";

/// Loads a deployment with simulated browsers.
#[derive(Debug, Parser)]
#[command(name = "swarm", version, about, after_help = OTHERS)]
pub(crate) struct Args {
    /// Where to connect, ws://HOST:PORT/ws; several are used in turn, {n} is the browser's number.
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
    /// How many browsers.
    #[arg(long, default_value = "64", value_name = "N")]
    browsers: String,
    /// How long to measure, once all are connected and warm; an interrupt (Ctrl-C) ends it earlier.
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    duration: String,
    /// How long to run before measuring; default: 1s, with --idle 10s.
    #[arg(long, value_name = "DURATION")]
    warm_up: Option<String>,
    /// What browsers send: axpy, append (in the end they look for all they have sent).
    #[arg(long, default_value = "axpy", value_name = "NAME")]
    workload: String,
    /// About how long a message is.
    #[arg(long, default_value = "64", value_name = "BYTES")]
    bytes: String,
    /// Messages a second of all browsers together, whatever the answers do, measured from when
    /// each was due; default: each sends its next one when it has its answer.
    #[arg(long, value_name = "N")]
    rate: Option<String>,
    /// Exchange two messages each, then stay quiet.
    #[arg(long)]
    idle: bool,
    /// Connect, talk, leave, and come back to the same session, again and again.
    #[arg(long)]
    churn: bool,
    /// How long a browser of --churn is away.
    #[arg(long, default_value = "100ms", value_name = "DURATION")]
    away: String,
    /// Connect all browsers evenly over so long a time.
    #[arg(long, value_name = "DURATION")]
    ramp: Option<String>,
    /// Connect so many browsers a second.
    #[arg(long, value_name = "N")]
    connects_per_second: Option<String>,
    /// The share of browsers that speak single-state.v1, 0 to 1: they number their messages, and come
    /// back when their connection breaks.
    #[arg(long, default_value = "0", value_name = "SHARE")]
    v1_share: String,
    /// Addresses of this machine to connect from, each with ports of its own; several. Default: as
    /// many of 127.0.0.1 and the next as are needed for gateways on this machine, otherwise its own.
    #[arg(long, value_name = "IP[-IP]")]
    from: Vec<String>,
    /// The gateways' keys, to sign the sessions that browsers name.
    #[arg(long, value_name = "FILE")]
    session_keys_file: Option<PathBuf>,
    /// How many browsers one process of the swarm has at most; default: what its descriptors allow.
    #[arg(long, value_name = "N")]
    browsers_per_process: Option<String>,
    /// Keep what browsers send and hear, for `check`.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Keep no history of --workload append, and do not look for what was sent.
    #[arg(long)]
    unchecked: bool,
    /// A server process whose CPU and memory to report; several, those of one name together.
    #[arg(long, value_name = "NAME=PID")]
    pid: Vec<String>,
    /// Faults to show on the time line: lines of {"at_ms":…,"what":"…"}, in milliseconds since
    /// 1970, or since the swarm began if they are below 10^11. Read in the end.
    #[arg(long, value_name = "FILE")]
    mark: Option<PathBuf>,
    /// Write the report as JSON; - is stdout.
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Write the report as a page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// This process has a part of the browsers, and another tells it what to do.
    #[arg(long, hide = true, value_name = "PART")]
    part: Option<String>,
}

/// What to do.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) urls: Vec<String>,
    pub(crate) browsers: usize,
    pub(crate) duration: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) workload: Workload,
    pub(crate) pace: Pace,
    pub(crate) connects_per_second: Option<f64>,
    pub(crate) v1_share: f64,
    pub(crate) from: Vec<Ipv4Addr>,
    pub(crate) keys: Option<KeyRing>,
    pub(crate) browsers_per_process: usize,
    pub(crate) history: Option<PathBuf>,
    /// What was appended is looked for.
    pub(crate) checks: bool,
    pub(crate) watched: Vec<Watched>,
    pub(crate) mark: Option<PathBuf>,
    pub(crate) json: Option<PathBuf>,
    pub(crate) html: Option<PathBuf>,
    pub(crate) part: Option<Part>,
}

/// When browsers send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// The next message when the answer to the last one is there.
    Closed,
    /// So many messages a second of all together, measured from when each was due.
    Rate(f64),
    /// Two messages each, then nothing.
    Idle,
    /// Visits of a few messages, so long a time after each other.
    Churn(Duration),
}

impl Args {
    /// The configuration, or all that is wrong with it.
    pub(crate) fn check(self, mut mistakes: Mistakes) -> Result<Config, Mistakes> {
        check_urls(&self.url, &mut mistakes);
        let browsers = mistakes.parse::<usize>("--browsers", &self.browsers);
        if browsers == Some(0) {
            mistakes.add("--browsers 0: give at least 1");
        }
        let duration = mistakes.duration("--duration", &self.duration);
        let warm_up = self.warm_up.as_deref().unwrap_or(if self.idle { "10s" } else { "1s" });
        let warm_up = mistakes.duration("--warm-up", warm_up);
        let bytes = mistakes.parse::<usize>("--bytes", &self.bytes);
        let workload = Workload::named(&self.workload, bytes.unwrap_or_default());
        if workload.is_none() {
            mistakes.add(format!("--workload {:?}: give axpy or append", self.workload));
        }
        let v1_share = mistakes.parse::<f64>("--v1-share", &self.v1_share);
        if v1_share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            mistakes.add(format!("--v1-share {}: give a number from 0 to 1", self.v1_share));
        }
        let pace = self.pace(&mut mistakes);
        let connects_per_second = self.connects_per_second(browsers, &mut mistakes);
        let mut from = limits::addresses(&self.from, &mut mistakes);
        if self.from.is_empty() {
            from = limits::own_addresses(&self.url, browsers.unwrap_or_default());
        }
        let keys =
            self.session_keys_file.as_deref().and_then(|path| read_keys(path, &mut mistakes));
        let most = self.browsers_per_process.as_deref();
        let browsers_per_process = limits::browsers_per_process(most, &mut mistakes);
        let watched =
            self.pid.iter().filter_map(|text| mistakes.parse::<Watched>("--pid", text)).collect();
        let part = self.part.as_deref().and_then(|text| mistakes.parse::<Part>("--part", text));
        let appends = matches!(workload, Some(Workload::Append { .. }));
        let config = (|| {
            Some(Config {
                urls: self.url,
                browsers: browsers?,
                duration: duration?,
                warm_up: warm_up?,
                workload: workload?,
                pace: pace?,
                connects_per_second,
                v1_share: v1_share?,
                from,
                keys,
                browsers_per_process: browsers_per_process?,
                history: self.history,
                checks: appends && !self.unchecked,
                watched: Watched::by_name(watched),
                mark: self.mark,
                json: self.json,
                html: self.html,
                part,
            })
        })();
        mistakes.into_result(config)
    }

    fn pace(&self, mistakes: &mut Mistakes) -> Option<Pace> {
        if usize::from(self.rate.is_some()) + usize::from(self.idle) + usize::from(self.churn) > 1 {
            mistakes.add("--rate, --idle and --churn: choose one");
        }
        let away = mistakes.duration("--away", &self.away);
        if let Some(rate) = &self.rate {
            return Some(Pace::Rate(above_zero("--rate", rate, mistakes)?));
        }
        Some(match away? {
            _ if self.idle => Pace::Idle,
            away if self.churn => Pace::Churn(away),
            _ => Pace::Closed,
        })
    }

    fn connects_per_second(&self, browsers: Option<usize>, mistakes: &mut Mistakes) -> Option<f64> {
        if self.ramp.is_some() && self.connects_per_second.is_some() {
            mistakes.add("--ramp and --connects-per-second: choose one");
        }
        if let Some(text) = &self.connects_per_second {
            return above_zero("--connects-per-second", text, mistakes);
        }
        let ramp = mistakes.duration("--ramp", self.ramp.as_deref()?)?;
        (!ramp.is_zero()).then_some(browsers? as f64 / ramp.as_secs_f64())
    }
}

impl Config {
    /// Where the browser with this number connects.
    pub(crate) fn address(&self, browser: usize) -> String {
        let url = self.urls[browser % self.urls.len()].replace("{n}", &browser.to_string());
        match (&self.keys, url.split_once("session=")) {
            (Some(_), Some((before, id))) => format!("{before}session={}", self.token(id)),
            _ => url,
        }
    }

    /// Where it comes back to the session that it was given.
    pub(crate) fn address_of(&self, browser: usize, token: &str) -> String {
        let url = self.address(browser);
        match url.contains('?') {
            _ if url.contains("session=") => url,
            true => format!("{url}&session={}", self.token(token)),
            false => format!("{url}?session={}", self.token(token)),
        }
    }

    /// What opens a session: what is no plain id is a token already.
    fn token(&self, id: &str) -> String {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match (&self.keys, id.parse::<SessionId>()) {
            (Some(keys), Ok(id)) => keys.sign(&id, Seconds(since_1970.as_secs())),
            _ => id.to_owned(),
        }
    }

    /// The address of this machine from which it connects.
    pub(crate) fn source(&self, browser: usize) -> Option<Ipv4Addr> {
        // Browsers of one gateway come from all addresses.
        let sources = self.from.len();
        (sources > 0).then(|| self.from[browser / self.urls.len() % sources])
    }

    /// Whether it speaks `single-state.v1`; each gateway has the same share.
    pub(crate) fn is_numbered(&self, browser: usize) -> bool {
        let turn = (browser / self.urls.len()) as f64;
        ((turn + 1.0) * self.v1_share).floor() > (turn * self.v1_share).floor()
    }

    /// How many processes the swarm has.
    pub(crate) fn processes(&self) -> usize {
        self.browsers.div_ceil(self.browsers_per_process)
    }
}

fn check_urls(urls: &[String], mistakes: &mut Mistakes) {
    if urls.is_empty() {
        mistakes.add("--url: say where to connect, such as --url ws://127.0.0.1:8000/ws");
    }
    for url in urls {
        let authority = url.strip_prefix("ws://").and_then(|rest| rest.split(['/', '?']).next());
        let port = authority.and_then(|authority| authority.rsplit_once(':'));
        if !port.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
            mistakes.add(format!("--url {url:?}: give ws://HOST:PORT/ws"));
        }
    }
}

fn above_zero(flag: &str, text: &str, mistakes: &mut Mistakes) -> Option<f64> {
    let number = mistakes.parse::<f64>(flag, text)?;
    let is_right = number > 0.0 && number.is_finite();
    if !is_right {
        mistakes.add(format!("{flag} {text}: give a number above 0"));
    }
    is_right.then_some(number)
}

fn read_keys(path: &Path, mistakes: &mut Mistakes) -> Option<KeyRing> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    text.and_then(|text| KeyRing::parse(&text).map_err(|error| error.to_string()))
        .map_err(|error| mistakes.add(format!("--session-keys-file {}: {error}", path.display())))
        .ok()
}
