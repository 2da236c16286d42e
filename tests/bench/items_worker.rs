//! A worker of ours with the app of the comparison: `items-worker FLAGS OF A WORKER`.

mod items;

use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use single_state_worker::{App, Context, Result, Session};

use crate::items::{Items, Message, state_bytes};

/// Length of each session's state.
struct Bytes(usize);

#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
struct State(Items);

impl Session for State {
    type Message = Message;

    async fn started(&mut self, ctx: &mut Context) -> Result<()> {
        self.0.fill(ctx.shared::<Bytes>().0);
        Ok(())
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context) -> Result<()> {
        ctx.assign("count", &self.0.handle(message))
    }
}

fn main() -> ExitCode {
    App::new(Bytes(state_bytes())).run::<State>()
}
