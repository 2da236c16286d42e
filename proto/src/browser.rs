//! The envelopes of `single-state.v1`, the protocol of clients that number their own messages: what a
//! browser says to a gateway and what it is told. Bodies are opaque: they are cut out of the text,
//! never parsed.
//!
//! ```text
//!   → ["hello", {session?, channel, attach, seen?}]      ← ["welcome", {session, epoch, …}]
//!   → [n, body]                                          ← ["ack", n]
//!   → ["ack", epoch, rev]                                ← [rev, body]
//!                                                        ← ["reset", {reason}], ["bye", {…}]
//! ```
//!
//! Binary messages are 8 bytes of number, big-endian, then the payload.

use bytes::{Buf, Bytes};
use serde::{Deserialize, Serialize};

use crate::frame::Durability;
use crate::id::{Attach, ChannelId, Epoch, InputNumber, Revision};
use crate::limits::MAX_INPUT_NUMBER;

/// The websocket subprotocol that a client asks for.
pub const SUBPROTOCOL: &str = "single-state.v1";

/// Bytes before the payload of a binary message.
pub const BINARY_HEAD: usize = 8;

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromClient {
    /// The first message.
    Hello(Hello),
    /// An input.
    Input(InputNumber, Bytes),
    /// Outputs of this epoch up to this revision are taken.
    Ack(Epoch, Revision),
}

/// Takes up a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The session's token, or its plain id where ids are not signed; absent: what the connection's
    /// URL or cookie names.
    pub session: Option<String>,
    /// Chosen at random by the client.
    pub channel: ChannelId,
    /// Counts this channel's connections from 1.
    pub attach: Attach,
    /// What the client has of the session's outputs; absent the first time.
    pub seen: Option<(Epoch, Revision)>,
}

/// Why a message is none of this protocol. Its printed form is the reason of a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

impl Malformed {
    /// The same, for a close frame.
    pub fn reason(self) -> &'static str {
        self.0
    }
}

const NOT_AN_ENVELOPE: Malformed =
    Malformed("a message is [\"hello\", {…}], [number, body] or [\"ack\", epoch, revision]");
const NOT_A_NUMBER: Malformed = Malformed("numbers are whole, from 1 to 2^53 - 1");
const NOT_A_HELLO: Malformed =
    Malformed("hello takes {session?, channel, attach, seen?}, with a channel of 8 to 64 letters");
const NOT_AN_ACK: Malformed = Malformed("ack takes an epoch and a revision");

#[derive(Deserialize)]
struct HelloFields {
    session: Option<String>,
    channel: String,
    attach: u64,
    seen: Option<(u64, u64)>,
}

/// Reads a text message.
pub fn parse(text: &Bytes) -> Result<FromClient, Malformed> {
    let inner = trim(text).strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    let inner = trim(inner.ok_or(NOT_AN_ENVELOPE)?);
    match inner.first() {
        Some(b'"') => parse_named(text),
        Some(_) => {
            let comma = inner.iter().position(|byte| *byte == b',').ok_or(NOT_AN_ENVELOPE)?;
            let number = parse_number(trim(&inner[..comma]))?;
            let body = trim(&inner[comma + 1..]);
            if body.is_empty() {
                return Err(NOT_AN_ENVELOPE);
            }
            Ok(FromClient::Input(number, text.slice_ref(body)))
        }
        None => Err(NOT_AN_ENVELOPE),
    }
}

/// Reads a binary message, which is an input.
pub fn parse_binary(bytes: &Bytes) -> Result<(InputNumber, Bytes), Malformed> {
    let mut rest = bytes.clone();
    let number = rest.try_get_u64().map_err(|_| NOT_A_NUMBER)?;
    check(number).map(|number| (number, rest))
}

fn parse_named(text: &[u8]) -> Result<FromClient, Malformed> {
    if let Ok((name, epoch, revision)) = serde_json::from_slice::<(&str, u64, u64)>(text) {
        let ack = FromClient::Ack(Epoch(epoch), Revision(revision));
        return if name == "ack" { Ok(ack) } else { Err(NOT_AN_ENVELOPE) };
    }
    let name = inner_name(text);
    match name {
        Some(b"hello") => {}
        Some(b"ack") => return Err(NOT_AN_ACK),
        _ => return Err(NOT_AN_ENVELOPE),
    }
    let (_, fields) =
        serde_json::from_slice::<(&str, HelloFields)>(text).map_err(|_| NOT_A_HELLO)?;
    let channel = fields.channel.parse().map_err(|_| NOT_A_HELLO)?;
    if !(1..=MAX_INPUT_NUMBER).contains(&fields.attach) {
        return Err(NOT_A_HELLO);
    }
    Ok(FromClient::Hello(Hello {
        session: fields.session,
        channel,
        attach: Attach(fields.attach),
        seen: fields.seen.map(|(epoch, revision)| (Epoch(epoch), Revision(revision))),
    }))
}

/// The name that an envelope begins with.
fn inner_name(text: &[u8]) -> Option<&[u8]> {
    let rest = trim(trim(text).strip_prefix(b"[")?).strip_prefix(b"\"")?;
    rest.split(|byte| *byte == b'"').next()
}

/// Digits only: `1.0`, `1e3`, `+1`, `01` and `-0` are other people's numbers.
fn parse_number(text: &[u8]) -> Result<InputNumber, Malformed> {
    if text.is_empty() || text.len() > 16 || text[0] == b'0' {
        return Err(NOT_A_NUMBER);
    }
    let digits = text.iter().try_fold(0_u64, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0'))
    });
    check(digits.ok_or(NOT_A_NUMBER)?)
}

fn check(number: u64) -> Result<InputNumber, Malformed> {
    if (1..=MAX_INPUT_NUMBER).contains(&number) {
        Ok(InputNumber(number))
    } else {
        Err(NOT_A_NUMBER)
    }
}

fn trim(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

// --- what a client is told ----------------------------------------------------------------------

/// Answers hello; comes again when the session has another owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The session's token, renewed; its plain id where ids are not signed.
    pub session: String,
    /// Number of the ownership.
    pub epoch: u64,
    /// Everything after what the client has seen follows; else a reset and the full picture do.
    pub resumed: bool,
    /// Last input applied for good; 0: none; `null`: the session does not know the channel any more,
    /// and takes its next number as it is.
    pub applied: Option<u64>,
    /// `relaxed`, `durable` or `memory`.
    pub durability: DurabilityName,
    /// What the gateway takes.
    pub limits: Limits,
    /// Index of the worker that owns the session, for people to look at; older gateways do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u16>,
}

/// What a gateway takes from one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Longest message in bytes; 0: any.
    pub message_bytes: usize,
    /// Longest websocket frame in bytes, of which a message may have several; 0: any.
    pub frame_bytes: usize,
    /// Messages that may be unacknowledged; the gateway reads no more while they are.
    pub unacked_messages: usize,
    /// Bytes of them.
    pub unacked_bytes: usize,
}

/// A durability as clients read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DurabilityName {
    /// See [`Durability::Relaxed`].
    Relaxed,
    /// See [`Durability::Durable`].
    Durable,
    /// See [`Durability::Memory`].
    Memory,
}

impl From<Durability> for DurabilityName {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Relaxed => Self::Relaxed,
            Durability::Durable => Self::Durable,
            Durability::Memory => Self::Memory,
        }
    }
}

/// Why a client must discard what it mirrors; a full picture follows unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetReason {
    /// The session went back to its last commit, or what the client has seen is not known any more.
    RolledBack,
    /// The client was too slow for the session's events.
    Overflow,
    /// The channel is not known any more, and its unacknowledged inputs cannot be judged: the client
    /// gives them up and begins another channel. Nothing follows.
    ChannelExpired,
}

/// Asks the client to go and come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye<'a> {
    /// For people.
    pub reason: &'a str,
    /// It comes again after this many milliseconds …
    pub after_ms: u64,
    /// … and up to this many more, at random.
    pub spread_ms: u64,
}

/// `["welcome", {…}]`
pub fn welcome(welcome: &Welcome) -> Bytes {
    named("welcome", welcome)
}

/// `["reset", {"reason": …}]`
pub fn reset(reason: ResetReason) -> Bytes {
    #[derive(Serialize)]
    struct Reset {
        reason: ResetReason,
    }
    named("reset", &Reset { reason })
}

/// `["bye", {…}]`
pub fn bye(bye: &Bye<'_>) -> Bytes {
    named("bye", bye)
}

/// `["ack", n]`
pub fn ack(number: InputNumber) -> Bytes {
    format!("[\"ack\",{number}]").into()
}

fn named(name: &str, fields: &impl Serialize) -> Bytes {
    // Numbers, texts and switches always have a JSON form.
    serde_json::to_vec(&(name, fields)).unwrap_or_default().into()
}

/// What stands before and after the body of an output: `[rev,` and `]`, or eight bytes and nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputFrame {
    head: [u8; 24],
    length: u8,
    /// What follows the body.
    pub tail: &'static [u8],
}

impl OutputFrame {
    /// The frame of an output.
    pub fn new(revision: Revision, binary: bool) -> Self {
        let mut head = [0; 24];
        if binary {
            head[..BINARY_HEAD].copy_from_slice(&revision.0.to_be_bytes());
            return Self { head, length: BINARY_HEAD as u8, tail: b"" };
        }
        let mut at = head.len();
        let mut rest = revision.0;
        at -= 1;
        head[at] = b',';
        loop {
            at -= 1;
            head[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        at -= 1;
        head[at] = b'[';
        head.copy_within(at.., 0);
        Self { head, length: (head.len() - at) as u8, tail: b"]" }
    }

    /// What precedes the body.
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.length)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<FromClient, Malformed> {
        parse(&Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_hello_names_channel_attach_and_what_was_seen() {
        let full =
            r#" ["hello", {"session": "t", "channel": "abcdefgh", "attach": 3, "seen": [7, 9]}] "#;
        assert_eq!(
            parse_text(full),
            Ok(FromClient::Hello(Hello {
                session: Some("t".to_owned()),
                channel: "abcdefgh".parse().unwrap(),
                attach: Attach(3),
                seen: Some((Epoch(7), Revision(9))),
            }))
        );
        let short = r#"["hello",{"channel":"abcdefgh","attach":1}]"#;
        assert!(matches!(parse_text(short), Ok(FromClient::Hello(Hello { seen: None, .. }))));
    }

    #[test]
    fn an_input_is_cut_out_of_its_envelope_and_not_read() {
        for (text, body) in [
            (r#"[1,{"tag":"a"}]"#, r#"{"tag":"a"}"#),
            (" [ 1 , [1,2] ] ", "[1,2]"),
            ("[1,]]", "]"),
            ("[1,2,3]", "2,3"),
        ] {
            let input = FromClient::Input(InputNumber(1), Bytes::copy_from_slice(body.as_bytes()));
            assert_eq!(parse_text(text), Ok(input), "{text}");
        }
        let last = format!("[{MAX_INPUT_NUMBER},0]");
        assert!(matches!(
            parse_text(&last),
            Ok(FromClient::Input(InputNumber(MAX_INPUT_NUMBER), _))
        ));
    }

    #[test]
    fn numbers_that_are_not_plain_ones_are_refused() {
        for number in
            ["0", "-1", "1.0", "1e3", "+1", "01", "9007199254740992", "99999999999999999999"]
        {
            assert_eq!(parse_text(&format!("[{number},{{}}]")), Err(NOT_A_NUMBER), "{number}");
        }
        for text in ["", "[", "]", "[]", "{}", "[1]", "[1,]", "[null,1]x", "1", "[1,2"] {
            assert!(parse_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_looks_like_another_envelope_says_what_is_wrong_with_it() {
        assert_eq!(parse_text(r#"["ack",1]"#), Err(NOT_AN_ACK));
        assert_eq!(parse_text(r#"["ack",1,-2]"#), Err(NOT_AN_ACK));
        assert_eq!(parse_text(r#"["wat",1,2]"#), Err(NOT_AN_ENVELOPE));
        assert_eq!(parse_text(r#"["hello",{}]"#), Err(NOT_A_HELLO));
        let attach = r#"["hello",{"channel":"abcdefgh","attach":0}]"#;
        assert_eq!(parse_text(attach), Err(NOT_A_HELLO));
        assert_eq!(parse_text(r#"["hello",{"channel":"short","attach":1}]"#), Err(NOT_A_HELLO));
        assert_eq!(parse_text(r#"["ack",7,9]"#), Ok(FromClient::Ack(Epoch(7), Revision(9))));
    }

    #[test]
    fn a_binary_input_begins_with_its_number() {
        let message = Bytes::from_static(b"\0\0\0\0\0\0\0\x02ab");
        let input = parse_binary(&message);
        assert_eq!(input, Ok((InputNumber(2), Bytes::from_static(b"ab"))));
        assert!(parse_binary(&Bytes::from_static(b"\0\0\0\0\0\0\0\0")).is_err());
        assert!(parse_binary(&Bytes::from_static(b"\0\0\x02")).is_err());
    }

    #[test]
    fn outputs_are_framed_with_their_revision() {
        for revision in [1, 10, 987_654_321, u64::MAX] {
            let frame = OutputFrame::new(Revision(revision), false);
            assert_eq!(frame.head(), format!("[{revision},").as_bytes());
            assert_eq!(frame.tail, b"]");
        }
        assert_eq!(OutputFrame::new(Revision(258), true).head(), [0, 0, 0, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn what_a_client_is_told_is_json() {
        let limits =
            Limits { message_bytes: 1, frame_bytes: 4, unacked_messages: 2, unacked_bytes: 3 };
        let told = Welcome {
            session: "s".to_owned(),
            epoch: 7,
            resumed: false,
            applied: None,
            durability: Durability::Relaxed.into(),
            limits,
            worker: Some(2),
        };
        assert_eq!(
            welcome(&told),
            r#"["welcome",{"session":"s","epoch":7,"resumed":false,"applied":null,"durability":"relaxed","limits":{"message_bytes":1,"frame_bytes":4,"unacked_messages":2,"unacked_bytes":3},"worker":2}]"#
        );
        assert_eq!(reset(ResetReason::RolledBack), r#"["reset",{"reason":"rolled_back"}]"#);
        assert_eq!(ack(InputNumber(5)), r#"["ack",5]"#);
        let farewell = Bye { reason: "restart", after_ms: 1, spread_ms: 2 };
        assert_eq!(bye(&farewell), r#"["bye",{"reason":"restart","after_ms":1,"spread_ms":2}]"#);
    }
}
