//! The app: what one user's session holds, and what it does with each message.

use serde::{Deserialize, Serialize};
use single_state_worker::{Context, Result, Session, ensure};

/// A session's whole state. It is saved by itself, and outlives the worker.
#[derive(Default, Serialize, Deserialize)]
pub struct Samples {
    values: Vec<f64>,
}

/// What pages may send: `{"tag": "add", "value": 2.5}`, `{"tag": "clear"}`.
#[derive(Serialize, Deserialize)]
#[serde(tag = "tag", rename_all = "snake_case")]
pub enum Message {
    Add { value: f64 },
    Clear,
}

impl Session for Samples {
    type Message = Message;

    /// The session has come into memory: new, or as it was last saved.
    async fn started(&mut self, ctx: &mut Context) -> Result<()> {
        self.show(ctx)
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
        match message {
            Message::Add { value } => {
                // An error is shown in the page, and the session goes on: check first, then change.
                ensure!(value.is_finite(), "a value is a number");
                self.values.push(value);
            }
            Message::Clear => self.values.clear(),
        }
        self.show(ctx)
    }
}

impl Samples {
    /// What every tab shows, now and when it connects later.
    fn show(&self, ctx: &mut Context) -> Result<()> {
        let total = self.values.iter().fold(0.0, |total, value| total + value);
        let mean = total / self.values.len().max(1) as f64;
        ctx.assign("values", &self.values)?;
        ctx.assign("mean", &mean)
    }
}
