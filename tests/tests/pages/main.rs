//! The pages that come with the gateway, in a real Chromium: the generic page with each example app,
//! and the status page with real workers.
//!
//! Screenshots are written to `tests/browser/output/`, for a person to look at.

mod examples;
mod generic;
mod stage;
mod status;
