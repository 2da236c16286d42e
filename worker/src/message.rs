//! App messages at the worker's edge: what a browser sends becomes the app's type, what the app
//! says becomes bytes.
//!
//! Browser messages are JSON objects with a string `tag`. The tag is found first, so that reserved
//! tags are refused before anything is decoded and every error names it. What a session schedules
//! or posts to itself travels as MessagePack, which keeps NaN, infinities and bytes that JSON loses.

mod mistake;

use std::borrow::Cow;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// A browser's message after its tag was found.
#[derive(Debug)]
pub(crate) enum FromBrowser<M> {
    /// `{"tag":"assign","key":…,"value":…}`
    Assign { key: String, value: Value },
    /// Everything else is the app's.
    App(M),
}

/// Texts of a page in our errors and logs are cut to so many characters.
const SHOWN: usize = 100;

/// What the app says is written into room for so many bytes, which most messages need not leave.
const SMALL: usize = 1024;

/// Errors are cut to so many characters, whatever the app puts into them.
const LONGEST_ERROR: usize = 4000;

#[derive(Deserialize)]
struct Assign {
    key: String,
    value: Value,
}

/// Decodes a text message of a browser. Errors are sentences for the author of the page.
pub(crate) fn from_browser<M: DeserializeOwned>(text: &[u8]) -> Result<FromBrowser<M>> {
    let tag = find_tag(text)?;
    if tag.starts_with('_') {
        bail!("the tag {:?} is reserved for the session itself", shorten(&tag));
    }
    if tag == "assign" {
        let Assign { key, value } = decode(text, &tag)?;
        return Ok(FromBrowser::Assign { key, value });
    }
    decode(text, &tag).map(FromBrowser::App)
}

/// What to call a browser's message in errors and logs: its tag, if it has one.
pub(crate) fn label(text: &[u8]) -> String {
    match find_tag(text) {
        Ok(tag) => format!("{:?}", shorten(&tag)),
        Err(_) => "a message".to_owned(),
    }
}

/// A text that a page chose, short enough to be repeated.
fn shorten(text: &str) -> &str {
    cut(text, SHOWN)
}

/// At most so many characters of `text`.
fn cut(text: &str, characters: usize) -> &str {
    let end = text.char_indices().nth(characters).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

/// The tag, of which messages should begin with it: then nothing after it is looked at here.
fn find_tag(text: &[u8]) -> Result<Cow<'_, str>> {
    if text.trim_ascii_start().first() != Some(&b'{') {
        bail!("a message is a JSON object with a \"tag\", such as {{\"tag\":\"add\",\"n\":1}}");
    }
    let mut tag = None;
    let outcome = serde_json::Deserializer::from_slice(text).deserialize_map(FindTag(&mut tag));
    match (tag, outcome) {
        (Some(tag), _) => Ok(tag),
        (None, Ok(())) => bail!("the message has no \"tag\""),
        (None, Err(error)) if error.is_data() => bail!("the message's \"tag\" is not one string"),
        (None, Err(error)) => bail!("the message is not JSON: {error}"),
    }
}

/// Reads an object up to its tag. That it leaves the rest is an error of which nobody needs to know:
/// whoever decodes the message reads it.
struct FindTag<'a, 'de>(&'a mut Option<Cow<'de, str>>);

impl<'de> Visitor<'de> for FindTag<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Text<'de>>()? {
            if key.0 == "tag" {
                *self.0 = Some(map.next_value::<Text<'de>>()?.0);
                return Ok(());
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// A string, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn decode<T: DeserializeOwned>(text: &[u8], tag: &str) -> Result<T> {
    serde_json::from_slice(text).map_err(|error| anyhow!(mistake::sentence::<T>(text, tag, &error)))
}

/// `{"tag":"assign","key":…,"value":…}` and where the value begins in it.
pub(crate) fn assign(key: &str, value: &impl Serialize) -> Result<(Bytes, usize)> {
    let wrong = || format!("assign {key:?}");
    let mut body = Vec::with_capacity(SMALL);
    body.extend_from_slice(br#"{"tag":"assign","key":"#);
    serde_json::to_writer(&mut body, key).with_context(wrong)?;
    body.extend_from_slice(br#","value":"#);
    let value_at = body.len();
    serde_json::to_writer(&mut body, value).with_context(wrong)?;
    body.push(b'}');
    Ok((kept(body), value_at))
}

/// A message in just the room that it needs: it is kept for as long as nothing newer replaces it.
fn kept(mut body: Vec<u8>) -> Bytes {
    if body.len() <= SMALL {
        return Bytes::copy_from_slice(&body);
    }
    body.shrink_to_fit();
    body.into()
}

/// An event for browsers; it must be an object with a tag that browsers may see.
pub(crate) fn event(message: &impl Serialize) -> Result<Bytes> {
    let mut body = Vec::with_capacity(SMALL);
    serde_json::to_writer(&mut body, message).context("send")?;
    let tag = find_tag(&body).context("send")?;
    if tag.starts_with('_') {
        bail!("send: the tag {tag:?} is reserved for the session itself");
    }
    Ok(kept(body))
}

/// `{"tag":"error",…}` as browsers get it, cut where it would be longer than anybody reads.
pub(crate) fn error(error: &str, details: &str) -> Bytes {
    let (error, details) = (cut(error, LONGEST_ERROR), cut(details, LONGEST_ERROR));
    #[derive(Serialize)]
    struct Error<'a> {
        tag: &'static str,
        error: &'a str,
        details: &'a str,
    }
    // Two texts always have a JSON form.
    serde_json::to_vec(&Error { tag: "error", error, details }).unwrap_or_default().into()
}

/// A message of the session to itself, as it is kept until it is due.
pub(crate) fn to_itself(message: &impl Serialize) -> Result<Bytes> {
    Ok(rmp_serde::to_vec_named(message).context("keep a message of the session to itself")?.into())
}

/// Its counterpart.
pub(crate) fn from_itself<M: DeserializeOwned>(bytes: &[u8]) -> Result<M> {
    rmp_serde::from_slice(bytes).context("read a message of the session to itself")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "tag", rename_all = "snake_case")]
    enum Message {
        Add {
            n: f64,
        },
        Clear,
        #[serde(rename = "_step")]
        Step,
    }

    fn error_of(text: &str) -> String {
        from_browser::<Message>(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_tagged_object_becomes_the_apps_message() {
        let decoded = from_browser::<Message>(br#" {"n":2,"tag":"add"}"#).unwrap();
        let FromBrowser::App(message) = decoded else { panic!("{decoded:?}") };
        assert_eq!(message, Message::Add { n: 2.0 });
        assert!(from_browser::<Message>(br#"{"tag":"clear"}"#).is_ok());
    }

    #[test]
    fn an_assign_never_reaches_the_apps_type() {
        let decoded = from_browser::<Message>(br#"{"tag":"assign","key":"a","value":[1]}"#);
        let Ok(FromBrowser::Assign { key, value }) = decoded else { panic!("{decoded:?}") };
        assert_eq!((key.as_str(), value), ("a", json!([1])));
    }

    #[test]
    fn errors_say_what_is_wrong_and_name_the_tag() {
        for (text, part) in [
            ("hello", "a message is a JSON object"),
            ("[1]", "a message is a JSON object"),
            ("{", "the message is not JSON"),
            ("{}", "the message has no \"tag\""),
            (r#"{"tag":3}"#, "the message's \"tag\" is not one string"),
            (r#"{"tag":"_step"}"#, "the tag \"_step\" is reserved"),
            (r#"{"tag":"wat"}"#, "message \"wat\": the app has no such message"),
            (r#"{"tag":"add"}"#, "message \"add\": missing field `n`"),
            (r#"{"tag":"add","n":"x"}"#, "message \"add\", field n: invalid type"),
            (r#"{"tag":"assign","key":1,"value":1}"#, "message \"assign\", field key: invalid"),
        ] {
            let error = error_of(text);
            assert!(error.starts_with(part), "{text}: {error}");
            let names_tag = error.starts_with("message ");
            assert!(!(names_tag && error.contains(" column ")), "{text}: {error}");
        }
    }

    #[test]
    fn what_a_page_sent_is_repeated_in_short() {
        let long = "x".repeat(100_000);
        for text in [format!(r#"{{"tag":"{long}"}}"#), format!(r#"{{"tag":"_{long}"}}"#)] {
            assert!(error_of(&text).len() < 400);
            assert!(label(text.as_bytes()).len() < 200);
        }
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let deep = "[".repeat(1_000_000);
        assert!(error_of(&format!(r#"{{"n":{deep}"#)).contains("not JSON"));
        assert!(error_of(&format!(r#"{{"tag":"add","n":{deep}"#)).contains("recursion limit"));
    }

    #[test]
    fn what_a_session_tells_itself_loses_nothing() {
        let bytes = to_itself(&Message::Add { n: f64::NEG_INFINITY }).unwrap();
        assert_eq!(from_itself::<Message>(&bytes).unwrap(), Message::Add { n: f64::NEG_INFINITY });
        assert_eq!(
            from_itself::<Message>(&to_itself(&Message::Step).unwrap()).unwrap(),
            Message::Step
        );
    }

    #[test]
    fn an_event_needs_a_tag_that_browsers_may_see() {
        assert!(event(&Message::Clear).is_ok());
        assert!(event(&Message::Step).is_err());
        assert!(event(&json!({"n": 1})).is_err());
        assert!(event(&3).is_err());
    }

    #[test]
    fn an_assign_carries_any_key_and_tells_where_its_value_is() {
        let (body, at) = assign("a\"b", &json!({"x": 1})).unwrap();
        assert_eq!(&body[..], br#"{"tag":"assign","key":"a\"b","value":{"x":1}}"#);
        assert_eq!(&body[at..body.len() - 1], br#"{"x":1}"#);
    }
}
