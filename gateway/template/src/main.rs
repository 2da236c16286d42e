use std::process::ExitCode;

use single_state_worker::App;

use @crate@::Samples;

fn main() -> ExitCode {
    App::default().run::<Samples>()
}
