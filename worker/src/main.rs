//! The binary `worker`: runs the demo app.

mod demo;

use std::process::ExitCode;

use single_state_worker::App;

fn main() -> ExitCode {
    App::new(demo::Digits::load()).run::<demo::Demo>()
}
