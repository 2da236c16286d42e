//! Text streamed from a slow job, word by word, that the user can cancel: work beside the session
//! that posts messages to it, so that the user is heard while it runs.
//!
//! ```sh
//! gateway dev --web worker/examples/web/stream --build 'cargo build -p single-state-worker --examples' \
//!   -- target/debug/examples/stream
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};
use single_state_worker::{App, Context, Poster, Result, Session, ensure};

#[derive(Default, Serialize, Deserialize)]
struct Writer {
    text: String,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "tag", rename_all = "snake_case")]
enum Message {
    /// From the page: write about this.
    Write { about: String },
    /// From the page: stop.
    Cancel,
    /// From the job: one more word.
    #[serde(rename = "_word")]
    Word { word: String },
    /// From the job: that was all.
    #[serde(rename = "_done")]
    Done,
}

impl Session for Writer {
    type Message = Message;

    async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
        match message {
            Message::Write { about } => {
                self.text.clear();
                ctx.spawn("writer", write(about, ctx.poster()));
                ctx.assign("state", "writing")
            }
            Message::Cancel => {
                if ctx.cancel("writer") {
                    ctx.assign("state", "cancelled")?;
                }
                Ok(())
            }
            Message::Word { word } => {
                self.text.push_str(&word);
                self.text.push(' ');
                ctx.assign("text", self.text.trim_end())
            }
            Message::Done => ctx.assign("state", "done"),
        }
    }
}

/// Stands for a language model or another slow service.
async fn write(about: String, session: Poster) -> Result<()> {
    ensure!(!about.is_empty(), "say what to write about");
    let beginning = ["Once", "upon", "a", "time", "there", "was"];
    for word in beginning.into_iter().chain(about.split_whitespace()) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        session.post(&Message::Word { word: word.to_owned() }).await?;
    }
    session.post(&Message::Done).await
}

fn main() -> std::process::ExitCode {
    App::default().run::<Writer>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use single_state_worker::testing::TestSession;

    #[test]
    fn words_arrive_one_after_the_other() {
        let session = TestSession::<Writer>::new();
        session.send(json!({"tag": "write", "about": "Rust"}));
        session.advance(Duration::from_millis(500));
        assert_eq!(session.mirror()["text"], "Once upon");
        session.advance(Duration::from_secs(2));
        assert_eq!(session.mirror()["text"], "Once upon a time there was Rust");
        assert_eq!(session.mirror()["state"], "done");
    }

    #[test]
    fn a_cancelled_job_writes_nothing_more() {
        let session = TestSession::<Writer>::new();
        session.send(json!({"tag": "write", "about": "Rust"}));
        session.advance(Duration::from_millis(500));
        session.send(json!({"tag": "cancel"}));
        session.advance(Duration::from_secs(10));
        assert_eq!(session.mirror()["text"], "Once upon");
        assert_eq!(session.mirror()["state"], "cancelled");
    }

    #[test]
    fn a_job_that_fails_is_shown_as_an_error() {
        let session = TestSession::<Writer>::new();
        session.send(json!({"tag": "write", "about": ""}));
        session.advance(Duration::from_secs(1));
        let error = session.outputs().pop().unwrap();
        assert_eq!(error["tag"], "error");
        assert_eq!(error["error"], "say what to write about");
    }
}
