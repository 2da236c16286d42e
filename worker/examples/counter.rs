//! A counter: the smallest app. All tabs of a user show the same number.
//!
//! ```sh
//! gateway dev --web worker/examples/web/counter --build 'cargo build -p single-state-worker --examples' \
//!   -- target/debug/examples/counter
//! ```

use serde::{Deserialize, Serialize};
use single_state_worker::{App, Context, Result, Session};

#[derive(Default, Serialize, Deserialize)]
struct Counter {
    count: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "tag", rename_all = "snake_case")]
enum Message {
    Add { n: i64 },
    Reset,
}

impl Session for Counter {
    type Message = Message;

    async fn started(&mut self, ctx: &mut Context) -> Result<()> {
        ctx.assign("count", &self.count)
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
        match message {
            Message::Add { n } => self.count += n,
            Message::Reset => self.count = 0,
        }
        ctx.assign("count", &self.count)
    }
}

fn main() -> std::process::ExitCode {
    App::default().run::<Counter>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use single_state_worker::testing::TestSession;

    #[test]
    fn what_one_tab_adds_every_tab_sees() {
        let session = TestSession::<Counter>::new();
        session.send(json!({"tag": "add", "n": 2}));
        let other = session.tab();
        other.send(json!({"tag": "add", "n": 3}));
        session.crash(); // the worker dies, another one has the session
        assert_eq!(session.mirror()["count"], 5);
        assert_eq!(other.mirror()["count"], 5);
    }

    #[test]
    fn reset_starts_over() {
        let session = TestSession::<Counter>::new();
        session.send(json!({"tag": "add", "n": 2}));
        session.send(json!({"tag": "reset"}));
        assert_eq!(session.mirror()["count"], 0);
    }
}
