//! An app with what scenarios need and no app should have: handlers that wait, compute and fail.

use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use single_state_worker::{App, Bytes, Context, Result, Session};

#[derive(Default, Serialize, Deserialize)]
struct Fixture {
    items: Vec<u64>,
    /// Nothing but size.
    ballast: String,
    /// Older than nothing: a state that says so cannot be read back.
    #[serde(default, deserialize_with = "refuse")]
    unreadable: bool,
}

/// Reads what was saved only if it was not marked.
fn refuse<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<bool, D::Error> {
    if bool::deserialize(deserializer)? {
        return Err(serde::de::Error::custom("it was marked as unreadable"));
    }
    Ok(false)
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "tag", rename_all = "snake_case")]
enum Message {
    /// Answers at once.
    Ping,
    /// Awaits, then answers.
    Wait { seconds: u64 },
    /// Blocks the worker's thread, in the handler or in work beside it, then answers.
    Block {
        seconds: u64,
        #[serde(default)]
        beside: bool,
    },
    /// The work beside the session is done.
    #[serde(rename = "_unblocked")]
    Unblocked,
    /// Keeps a CPU busy on the compute pool, then answers.
    Compute { seconds: u64 },
    /// Adds a number to the list and tells the whole list's length.
    Append { n: u64 },
    /// Tells the list.
    List,
    /// Sends an event with this number to all.
    Tell { n: u64 },
    /// Sends so many events of so many bytes.
    Burst { events: u64, bytes: usize },
    /// Adds a number to the list after a while, without anybody being there.
    Later { n: u64, seconds: u64 },
    /// The number, when its time has come.
    #[serde(rename = "_append")]
    Due { n: u64 },
    /// Makes the state so many bytes larger.
    Grow { bytes: usize },
    /// Makes the state one that cannot be read back.
    Spoil,
    /// Panics.
    Panic,
    /// Ends the worker's process as a stack that overflows would.
    Die,
    /// Ends the session.
    End,
}

impl Session for Fixture {
    type Message = Message;

    async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
        match message {
            Message::Ping => ctx.send(&json!({"tag": "pong", "worker": ctx.worker_index()})),
            Message::Wait { seconds } => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                ctx.send(&json!({"tag": "waited"}))
            }
            Message::Block { seconds, beside: false } => {
                std::thread::sleep(Duration::from_secs(seconds));
                ctx.send(&json!({"tag": "unblocked"}))
            }
            Message::Block { seconds, beside: true } => {
                let poster = ctx.poster();
                ctx.spawn("slow work", async move {
                    std::thread::sleep(Duration::from_secs(seconds));
                    poster.post(&Message::Unblocked).await
                });
                Ok(())
            }
            Message::Unblocked => ctx.send(&json!({"tag": "unblocked"})),
            Message::Compute { seconds } => {
                ctx.compute(&mut (), move |()| {
                    let began = std::time::Instant::now();
                    while began.elapsed() < Duration::from_secs(seconds) {
                        std::hint::spin_loop();
                    }
                })
                .await;
                ctx.send(&json!({"tag": "computed"}))
            }
            Message::Append { n } | Message::Due { n } => {
                self.items.push(n);
                ctx.assign("length", &self.items.len())
            }
            Message::List => ctx.send(&json!({"tag": "list", "items": self.items})),
            Message::Tell { n } => ctx.send(&json!({"tag": "told", "n": n})),
            Message::Burst { events, bytes } => {
                for n in 0..events {
                    ctx.send(&json!({"tag": "event", "n": n, "padding": "x".repeat(bytes)}))?;
                }
                Ok(())
            }
            Message::Later { n, seconds } => {
                ctx.schedule(&n.to_string(), Duration::from_secs(seconds), &Message::Due { n })
            }
            Message::Grow { bytes } => {
                self.ballast.push_str(&"x".repeat(bytes));
                ctx.assign("ballast", &self.ballast.len())
            }
            Message::Spoil => {
                self.unreadable = true;
                ctx.assign("spoilt", &true)
            }
            Message::Panic => panic!("asked to"),
            Message::Die => std::process::abort(),
            Message::End => {
                ctx.end();
                Ok(())
            }
        }
    }

    async fn binary(&mut self, bytes: Bytes, ctx: &mut Context) -> Result<()> {
        ctx.send_binary(bytes)
    }
}

fn main() -> ExitCode {
    App::default().run::<Fixture>()
}
