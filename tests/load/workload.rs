//! What browsers send and how they know the answer.

use serde_json::Value;

/// One kind of load.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Workload {
    /// `axpy` over vectors; the message is the same each time.
    Axpy { message: String },
    /// `append` of an item; the answer tells how many there are.
    Append { padding: String },
}

/// What an answer says of the messages before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answers the last message.
    Answer,
    /// It is about something else.
    Other,
    /// The server reports an error.
    Error,
    /// The session holds so many items more than this browser has sent.
    More(u64),
}

impl Workload {
    /// `axpy` or `append`, with messages of about so many bytes.
    pub(crate) fn named(name: &str, bytes: usize) -> Option<Self> {
        match name {
            "axpy" => {
                // Each element stands in both vectors as `d.dd,`, five bytes.
                let elements = (bytes.saturating_sub(36) / 10).max(3);
                let vector: Vec<String> =
                    (0..elements).map(|i| format!("{}.{}", i % 10, 25 + i % 50)).collect();
                let vector = vector.join(",");
                let message = format!(r#"{{"tag":"axpy","a":2,"x":[{vector}],"y":[{vector}]}}"#);
                Some(Self::Axpy { message })
            }
            "append" => Some(Self::Append { padding: "x".repeat(bytes.saturating_sub(36)) }),
            _ => None,
        }
    }

    /// The message with this number; the first has 1.
    pub(crate) fn message(&self, number: u64) -> String {
        match self {
            Self::Axpy { message } => message.clone(),
            Self::Append { padding } => {
                format!(r#"{{"tag":"append","item":"{number:08}{padding}"}}"#)
            }
        }
    }

    /// Judges what came after message `number` was sent.
    pub(crate) fn judge(&self, number: u64, answer: &[u8]) -> Verdict {
        if answer.starts_with(br#"{"tag":"error""#) {
            return Verdict::Error;
        }
        match self {
            Self::Axpy { .. }
                if answer.starts_with(br#"{"tag":"assign","key":"result_vector""#) =>
            {
                Verdict::Answer
            }
            Self::Append { .. } if answer.starts_with(br#"{"tag":"assign","key":"count""#) => {
                let found = serde_json::from_slice::<Value>(answer).ok();
                let found = found.and_then(|answer| answer["value"].as_u64()).unwrap_or_default();
                match found.checked_sub(number) {
                    // It counts up to it: an owner that has gone back tells it again.
                    None => Verdict::Other,
                    Some(0) => Verdict::Answer,
                    Some(more) => Verdict::More(more),
                }
            }
            _ => Verdict::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_about_as_long_as_asked() {
        for bytes in [64, 1000, 16 * 1024] {
            for name in ["axpy", "append"] {
                let length = Workload::named(name, bytes).unwrap().message(1).len();
                assert!(length.abs_diff(bytes) <= 40, "{name} of {bytes} has {length}");
            }
        }
    }

    #[test]
    fn a_count_that_differs_is_noticed() {
        let append = Workload::named("append", 64).unwrap();
        let answer = |n: u64| format!(r#"{{"tag":"assign","key":"count","value":{n}}}"#);
        assert_eq!(append.judge(3, answer(3).as_bytes()), Verdict::Answer);
        let verdict = append.judge(3, answer(4).as_bytes());
        assert_eq!(verdict, Verdict::More(1));
        assert_eq!(append.judge(3, answer(2).as_bytes()), Verdict::Other);
        assert_eq!(append.judge(3, br#"{"tag":"error","error":""}"#), Verdict::Error);
    }
}
