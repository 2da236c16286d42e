//! MessagePack of unknown type as JSON, for people to read. Knows no sessions.
//!
//! What JSON lacks gets a form of its own: bytes are `{"$bytes": base64}`, extensions
//! `{"$ext": [type, base64]}`, NaN and infinities are strings, and a key that is no string is its
//! JSON text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rmpv::ValueRef;
use rmpv::decode::read_value_ref_with_max_depth;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

/// What is nested deeper is not shown: the program would run out of stack. Apps read no more either.
const MAX_DEPTH: usize = 1024;

/// What the decoder counts: two for each level, and up to three for what is at the bottom.
const MAX_COUNTED: usize = 2 * MAX_DEPTH + 3;

/// Reads one value, which is all of `bytes`.
pub(super) fn read(mut bytes: &[u8]) -> Result<ValueRef<'_>, String> {
    let value =
        read_value_ref_with_max_depth(&mut bytes, MAX_COUNTED).map_err(|error| match error {
            rmpv::decode::Error::DepthLimitExceeded => {
                format!("it is nested deeper than {MAX_DEPTH} levels")
            }
            error => format!("it is no MessagePack: {error}"),
        })?;
    match bytes.len() {
        0 => Ok(value),
        more => Err(format!("{more} bytes follow it")),
    }
}

/// Base64 with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A value that is written without being copied: a state of 16 MiB is large enough already.
#[derive(Debug)]
pub(super) struct Shown<'a>(pub(super) &'a ValueRef<'a>);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            ValueRef::Nil => to.serialize_unit(),
            ValueRef::Boolean(value) => to.serialize_bool(*value),
            // Whatever is no u64 is an i64.
            ValueRef::Integer(number) => match number.as_u64() {
                Some(number) => to.serialize_u64(number),
                None => to.serialize_i64(number.as_i64().unwrap_or_default()),
            },
            ValueRef::F32(number) if number.is_finite() => to.serialize_f32(*number),
            ValueRef::F32(number) => to.serialize_str(infinite(f64::from(*number))),
            ValueRef::F64(number) if number.is_finite() => to.serialize_f64(*number),
            ValueRef::F64(number) => to.serialize_str(infinite(*number)),
            ValueRef::String(text) => match text.as_str() {
                Some(text) => to.serialize_str(text),
                None => Blob(text.as_bytes()).serialize(to),
            },
            ValueRef::Binary(bytes) => Blob(bytes).serialize(to),
            ValueRef::Array(items) => to.collect_seq(items.iter().map(Shown)),
            ValueRef::Map(entries) => {
                let mut map = to.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(&key_text(key), &Shown(value))?;
                }
                map.end()
            }
            ValueRef::Ext(kind, bytes) => to.collect_map([("$ext", (kind, base64(bytes)))]),
        }
    }
}

fn infinite(number: f64) -> &'static str {
    match number {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    }
}

/// A string is its own key; everything else is a key as JSON would write it.
fn key_text(key: &ValueRef<'_>) -> String {
    match key {
        ValueRef::String(text) if text.is_str() => text.as_str().unwrap_or_default().to_owned(),
        // Keys of `Shown` are strings, and nothing else can fail in memory.
        key => serde_json::to_string(&Shown(key)).unwrap_or_default(),
    }
}

/// Bytes that are no text.
#[derive(Debug)]
pub(super) struct Blob<'a>(pub(super) &'a [u8]);

impl Serialize for Blob<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map([("$bytes", base64(self.0))])
    }
}

/// MessagePack that is read while it is written; as bytes when it cannot be read.
#[derive(Debug)]
pub(super) struct Packed<'a>(pub(super) &'a [u8]);

impl Serialize for Packed<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match read(self.0) {
            Ok(value) => Shown(&value).serialize(to),
            Err(_) => Blob(self.0).serialize(to),
        }
    }
}

/// Text that may be JSON, which then is written as it stands: nothing of it is lost.
#[derive(Debug)]
pub(super) struct Text<'a>(pub(super) &'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if let Ok(json) = serde_json::from_slice::<&RawValue>(self.0) {
            return json.serialize(to);
        }
        match std::str::from_utf8(self.0) {
            Ok(text) => to.serialize_str(text),
            Err(_) => Blob(self.0).serialize(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rmpv::Value;
    use serde_json::json;

    use super::*;

    fn shown(value: &Value) -> serde_json::Value {
        serde_json::to_value(Shown(&value.as_ref())).unwrap()
    }

    /// As an app's state would be.
    fn packed(value: &impl Serialize) -> serde_json::Value {
        let bytes = rmp_serde::to_vec_named(value).unwrap();
        serde_json::to_value(Packed(&bytes)).unwrap()
    }

    #[test]
    fn numbers_that_json_lacks_are_words() {
        let numbers = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.5];
        assert_eq!(packed(&numbers), json!(["NaN", "Infinity", "-Infinity", -0.5]));
        let numbers = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        assert_eq!(packed(&numbers), json!(["NaN", "Infinity", "-Infinity"]));
    }

    #[test]
    fn numbers_are_exact() {
        let text = |value: &Value| serde_json::to_string(&Shown(&value.as_ref())).unwrap();
        assert_eq!(text(&u64::MAX.into()), "18446744073709551615");
        assert_eq!(text(&i64::MIN.into()), "-9223372036854775808");
        assert_eq!(text(&0.1f64.into()), "0.1");
        assert_eq!(text(&0.1f32.into()), "0.1");
    }

    #[test]
    fn keys_that_are_no_strings_are_their_json_text() {
        let pairs = BTreeMap::from([((1, "a"), 1), ((2, "b"), 2)]);
        assert_eq!(packed(&pairs), json!({"[1,\"a\"]": 1, "[2,\"b\"]": 2}));
        assert_eq!(packed(&BTreeMap::from([(-1, true)])), json!({"-1": true}));
        let keys = Value::Map(vec![
            (Value::Nil, 0.into()),
            (Value::F64(f64::NAN), 1.into()),
            (Value::Binary(vec![0]), 2.into()),
        ]);
        assert_eq!(shown(&keys), json!({"null": 0, "\"NaN\"": 1, "{\"$bytes\":\"AA==\"}": 2}));
    }

    #[test]
    fn fields_stay_in_their_order() {
        let fields = Value::Map(vec![("b".into(), 1.into()), ("a".into(), 2.into())]);
        let text = serde_json::to_string(&Shown(&fields.as_ref())).unwrap();
        assert_eq!(text, r#"{"b":1,"a":2}"#);
    }

    #[test]
    fn bytes_and_extensions_are_base64() {
        assert_eq!(packed(&serde_bytes::Bytes::new(&[0, 255])), json!({"$bytes": "AP8="}));
        assert_eq!(shown(&Value::Ext(-1, vec![1, 2])), json!({"$ext": [-1, "AQI="]}));
        // A string that is no text.
        assert_eq!(serde_json::to_value(Packed(&[0xa1, 0xff])).unwrap(), json!({"$bytes": "/w=="}));
    }

    #[test]
    fn what_an_app_can_read_is_shown_however_deep_it_is() {
        // With the stack that the main thread of a program has.
        let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(|| {
            for depth in [1, 127, 128, 129, MAX_DEPTH - 1, MAX_DEPTH] {
                let mut bytes = vec![0x91; depth];
                bytes.extend(b"\xa1x");
                let text = serde_json::to_string_pretty(&Shown(&read(&bytes).unwrap())).unwrap();
                assert_eq!(text.matches('[').count(), depth);
                assert!(text.contains("\"x\""));
            }
        });
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn what_is_nested_without_end_is_refused() {
        let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(|| {
            let error = read(&vec![0x91; 1 << 20]).unwrap_err();
            assert_eq!(error, "it is nested deeper than 1024 levels");
            let mut bytes = vec![0x91; MAX_DEPTH + 1];
            bytes.push(0xc0);
            assert!(rmp_serde::from_slice::<serde::de::IgnoredAny>(&bytes).is_err(), "nor by apps");
        });
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn what_is_no_single_value_is_refused() {
        assert!(read(&[]).unwrap_err().starts_with("it is no MessagePack: "));
        assert!(read(&[0x92, 0xc0]).unwrap_err().starts_with("it is no MessagePack: "));
        assert_eq!(read(&[0xc0, 0xc0]).unwrap_err(), "1 bytes follow it");
    }

    #[test]
    fn text_that_is_json_is_written_as_it_stands() {
        let text = |text: &[u8]| serde_json::to_string(&Text(text)).unwrap();
        assert_eq!(text(br#"{"n":1e400,"m":12345678901234567890123}"#).len(), 39);
        assert_eq!(text(br#"{"n":1.0}"#), r#"{"n":1.0}"#);
        assert_eq!(text(b"no json"), r#""no json""#);
        assert_eq!(text(b"\xff"), r#"{"$bytes":"/w=="}"#);
    }
}
