//! Times as operators read them: RFC 3339, in UTC. Takes whatever a row has.

use std::time::{Duration, SystemTime};

/// The first second of the year 10000, which has no such form.
const END: u64 = 253_402_300_800;

/// To the second; `@SECONDS` of Unix time where RFC 3339 has no form.
pub(super) fn moment(time: SystemTime) -> String {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since.as_secs() < END => humantime::format_rfc3339_seconds(time).to_string(),
        Ok(since) => format!("@{}", since.as_secs()),
        Err(before) => format!("@-{}", before.duration().as_secs()),
    }
}

/// The same for milliseconds of Unix time.
pub(super) fn moment_of_millis(millis: u64) -> String {
    match SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)) {
        Some(time) => moment(time),
        None => format!("@{}", millis / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_printed_in_utc() {
        assert_eq!(moment_of_millis(1_700_000_000_999), "2023-11-14T22:13:20Z");
        assert_eq!(moment_of_millis(0), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_time_that_rfc_3339_cannot_write_is_printed_in_seconds() {
        assert_eq!(moment_of_millis(END * 1000 - 1), "9999-12-31T23:59:59Z");
        assert_eq!(moment_of_millis(END * 1000), "@253402300800");
        assert_eq!(moment_of_millis(u64::MAX), "@18446744073709551");
        assert_eq!(moment(SystemTime::UNIX_EPOCH - Duration::from_secs(2)), "@-2");
    }
}
