//! What is wrong with a browser's message, in words for the author of its page: in which field, and
//! what the app knows that is spelt alike. Costs nothing until a message was refused.
//!
//! serde reads a tagged enum into a buffer first, and whatever it says of that names no field; a
//! crate that watches the reading (serde_path_to_error) does not see past the buffer either. So the
//! field is looked for: a message that is cut off behind it fails as the whole one does, and one that
//! is cut off before it does not.

use std::fmt::Write as _;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{SHOWN, cut, shorten};

/// Bytes of messages that are read again, at most, to find one field. So who sends messages that
/// make no sense keeps a worker from the others' no longer than with a long one that does.
const SEARCHED: usize = 16 * 1024;

/// So many known names are listed, the most similar first.
const LISTED: usize = 10;

/// The sentence for a message that serde has refused with `error`.
pub(super) fn sentence<T: DeserializeOwned>(
    text: &[u8],
    tag: &str,
    error: &serde_json::Error,
) -> String {
    let shown = shorten(tag);
    let Some(found) = Search::<T>::of(text).filter(|_| error.is_data()) else {
        return format!("message {shown:?}: {}", in_words(&without_position(error)));
    };
    if found.path.is_empty() {
        let unknown = Unknown::read(&found.wrong).filter(|unknown| unknown.given == tag);
        if let Some(Unknown { known, .. }) = unknown {
            let known = known.into_iter().filter(|name| !name.starts_with('_')).collect();
            let known = list(shown, known);
            return format!("message {shown:?}: the app has no such message, it knows {known}");
        }
        return format!("message {shown:?}: {}", in_words(&found.wrong));
    }
    let path = shorten_to_end(&found.path);
    format!("message {shown:?}, field {path}: {}", in_words(&found.wrong))
}

/// serde's sentence without the position, which means nothing to whoever wrote `{tag: …}` in a page.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).to_owned()
}

/// serde's sentence, shortened: what the page sent may be long, and so may be what is known.
fn in_words(wrong: &str) -> String {
    if let Some(Unknown { what, given, known }) = Unknown::read(wrong) {
        let given = shorten(given);
        return format!("unknown {what} {given:?}, known are {}", list(given, known));
    }
    match wrong.rsplit_once(", expected ") {
        Some((given, expected)) => {
            format!("{}, expected {}", shorten_to_end(given), shorten_to_end(expected))
        }
        None => shorten_to_end(wrong),
    }
}

fn shorten_to_end(text: &str) -> String {
    let short = cut(text, SHOWN);
    if short.len() < text.len() { format!("{short}…") } else { short.to_owned() }
}

/// What serde says of a name that it does not know: "unknown variant `wat`, expected one of `add`,
/// `clear`".
struct Unknown<'a> {
    what: &'a str,
    given: &'a str,
    known: Vec<&'a str>,
}

impl<'a> Unknown<'a> {
    fn read(wrong: &'a str) -> Option<Self> {
        let (what, rest) = wrong.strip_prefix("unknown ")?.split_once(" `")?;
        let (given, known) = rest.rsplit_once("`, expected ")?;
        // Between every other pair of marks is a name.
        let known = known.split('`').skip(1).step_by(2).collect();
        Some(Self { what, given, known })
    }
}

/// The names, those first that are most like the given one.
fn list(given: &str, mut names: Vec<&str>) -> String {
    let alike = |name: &str| strsim::normalized_damerau_levenshtein(given, name);
    names.sort_by(|a, b| alike(b).total_cmp(&alike(a)));
    if names.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<_> = names.iter().take(LISTED).map(|name| format!("{name:?}")).collect();
    let more = match names.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", shown.join(", "))
}

/// Where in a message the mistake is, and how serde calls it.
struct Found {
    path: String,
    wrong: String,
}

/// The search for the field that cannot be read. `root` is cut shorter and shorter, and fails all
/// the time as the whole did: with the sentence `wrong`.
struct Search<T> {
    root: Value,
    wrong: String,
    path: Vec<Step>,
    tries: usize,
    app: PhantomData<T>,
}

enum Step {
    Key(String),
    Index(usize),
}

impl<T: DeserializeOwned> Search<T> {
    /// `None` when the message is too long, or when what serde disliked is not among its values.
    fn of(text: &[u8]) -> Option<Found> {
        let tries = SEARCHED.checked_div(text.len()).filter(|tries| *tries > 0)?;
        let root: Value = serde_json::from_slice(text).ok()?;
        let wrong = T::deserialize(&root).err()?.to_string();
        let mut search = Self { root, wrong, path: Vec::new(), tries, app: PhantomData };
        // Out of tries it has come as far as it has come, which is better than nothing.
        while search.descend().is_some() {}
        Some(Found { path: search.shown(), wrong: search.wrong })
    }

    /// One step towards the mistake; `None` when it is here, or nothing more can be tried.
    fn descend(&mut self) -> Option<()> {
        if self.is_at_the_end()? {
            return None;
        }
        let (mut fails_with, mut fits_below) = (children(self.node()), 0);
        while fits_below < fails_with {
            let middle = (fits_below + fails_with) / 2;
            let path = self.path.len();
            if self.still_fails(|node| truncate(node, middle, path == 0))? {
                fails_with = middle;
            } else {
                fits_below = middle + 1;
            }
        }
        let last = fails_with.checked_sub(1)?;
        let is_top = self.path.is_empty();
        truncate(at(&mut self.root, &self.path)?, fails_with, is_top);
        let step = match self.node() {
            Value::Object(object) => Step::Key(keys(object, is_top).nth(last)?.clone()),
            _ => Step::Index(last),
        };
        self.path.push(step);
        Some(())
    }

    /// Whether something is missing at the end of this very node: with one more it fails elsewhere.
    fn is_at_the_end(&mut self) -> Option<bool> {
        let missing = self.wrong.strip_prefix("missing field `");
        let missing = missing.and_then(|rest| Some(rest.split_once('`')?.0.to_owned()));
        match (self.node(), missing) {
            (Value::Object(_), Some(name)) => Some(!self.still_fails(|node| {
                if let Value::Object(object) = node {
                    object.insert(name, Value::Null);
                }
            })?),
            (Value::Array(_), None) if self.wrong.starts_with("invalid length") => {
                Some(!self.still_fails(|node| {
                    if let Value::Array(array) = node {
                        array.push(Value::Null);
                    }
                })?)
            }
            _ => Some(false),
        }
    }

    /// Whether the message, changed at this node, fails just as before.
    fn still_fails(&mut self, change: impl FnOnce(&mut Value)) -> Option<bool> {
        self.tries = self.tries.checked_sub(1)?;
        let mut root = self.root.clone();
        change(at(&mut root, &self.path)?);
        Some(T::deserialize(&root).is_err_and(|error| error.to_string() == self.wrong))
    }

    fn node(&self) -> &Value {
        self.path.iter().fold(&self.root, |node, step| match step {
            Step::Key(key) => &node[key],
            Step::Index(index) => &node[index],
        })
    }

    /// Such as `points[3].x`; what is no name is put between quotation marks.
    fn shown(&self) -> String {
        let is_name = |key: &str| key.chars().all(|c| c.is_alphanumeric() || "_-".contains(c));
        let mut shown = String::new();
        for step in &self.path {
            // Nothing goes wrong with a string.
            let _ = match step {
                Step::Index(index) => write!(shown, "[{index}]"),
                Step::Key(key) if !is_name(key) => write!(shown, "[{key:?}]"),
                Step::Key(key) if shown.is_empty() => write!(shown, "{key}"),
                Step::Key(key) => write!(shown, ".{key}"),
            };
        }
        shown
    }
}

fn at<'a>(root: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(root, |node, step| match step {
        Step::Key(key) => node.get_mut(key),
        Step::Index(index) => node.get_mut(index),
    })
}

/// The keys of an object but the message's tag, without which it is another message.
fn keys(object: &serde_json::Map<String, Value>, is_top: bool) -> impl Iterator<Item = &String> {
    object.keys().filter(move |key| !(is_top && *key == "tag"))
}

fn children(node: &Value) -> usize {
    match node {
        Value::Object(object) => object.len(),
        Value::Array(array) => array.len(),
        _ => 0,
    }
}

/// Leaves the first `count` children of a node.
fn truncate(node: &mut Value, count: usize, is_top: bool) {
    match node {
        Value::Object(object) => {
            let over: Vec<_> = keys(object, is_top).skip(count).cloned().collect();
            for key in over {
                object.remove(&key);
            }
        }
        Value::Array(array) => array.truncate(count),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(tag = "tag", rename_all = "snake_case")]
    #[expect(dead_code, reason = "only read")]
    enum Message {
        Axpy {
            a: f64,
            x: Vec<f64>,
            y: Vec<f64>,
        },
        Draw {
            shapes: Vec<Shape>,
            names: BTreeMap<String, u8>,
        },
        Look {
            at: (f64, f64, f64),
            pairs: Vec<(u8, u8)>,
        },
        Set(Setting),
        Clear,
        #[serde(rename = "_step")]
        Step,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Shape {
        kind: Kind,
        size: Option<u8>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Circle,
        Square,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Setting {
        rate: f32,
    }

    fn told(message: &Value) -> String {
        let text = message.to_string();
        let error = serde_json::from_str::<Message>(&text).unwrap_err();
        sentence::<Message>(text.as_bytes(), message["tag"].as_str().unwrap(), &error)
    }

    #[test]
    fn a_wrong_type_is_told_with_the_path_of_its_field() {
        let circle = json!({"kind": "circle"});
        for (message, expected) in [
            (
                json!({"tag": "axpy", "a": "2", "x": [], "y": []}),
                r#"message "axpy", field a: invalid type: string "2", expected f64"#,
            ),
            (
                json!({"tag": "axpy", "a": 2, "x": [1, 2, 3, null, 5], "y": [6, 7]}),
                r#"message "axpy", field x[3]: invalid type: null, expected f64"#,
            ),
            (
                json!({"tag": "draw", "names": {}, "shapes": [circle, {"kind": "circle", "size": 300}]}),
                r#"message "draw", field shapes[1].size: invalid value: integer `300`, expected u8"#,
            ),
            (
                json!({"tag": "draw", "names": {"a": 1, "b c": -1}, "shapes": [circle]}),
                r#"message "draw", field names["b c"]: invalid value: integer `-1`, expected u8"#,
            ),
            (
                json!({"tag": "set", "rate": [0.1]}),
                r#"message "set", field rate: invalid type: sequence, expected f32"#,
            ),
        ] {
            assert_eq!(told(&message), expected);
        }
    }

    #[test]
    fn what_is_missing_is_told_with_the_path_of_what_lacks_it() {
        for (message, expected) in [
            (json!({"tag": "axpy", "x": [1], "y": []}), r#"message "axpy": missing field `a`"#),
            (
                json!({"tag": "draw", "names": {}, "shapes": [{"size": 1}]}),
                r#"message "draw", field shapes[0]: missing field `kind`"#,
            ),
            (
                json!({"tag": "look", "at": [1, 2], "pairs": []}),
                r#"message "look", field at: invalid length 2, expected a tuple of size 3"#,
            ),
            (
                json!({"tag": "look", "at": [1, 2, 3], "pairs": [[1, 2], [1]]}),
                r#"message "look", field pairs[1]: invalid length 1, expected a tuple of size 2"#,
            ),
        ] {
            assert_eq!(told(&message), expected);
        }
    }

    #[test]
    fn names_that_are_spelt_alike_come_first_and_those_of_the_session_itself_not_at_all() {
        let expected = r#"message "claer": the app has no such message, it knows "clear""#;
        assert!(told(&json!({"tag": "claer"})).starts_with(expected));
        assert!(!told(&json!({"tag": "step"})).contains("_step"));
        let shapes = json!({"tag": "draw", "names": {}, "shapes": [{"kind": "squire"}]});
        let expected = r#"message "draw", field shapes[0].kind: unknown variant "squire", known are "square", "circle""#;
        assert_eq!(told(&shapes), expected);
        let unknown = told(&json!({"tag": "set", "rate": 1, "rade": 1}));
        assert!(unknown.ends_with(r#"unknown field "rade", known are "rate""#), "{unknown}");
    }

    #[test]
    fn of_many_names_the_nearest_are_listed_and_the_others_counted() {
        let names: Vec<_> = (0..40).map(|i| format!("message_{i}")).collect();
        let listed = list("mesage_31", names.iter().map(String::as_str).collect());
        assert!(listed.starts_with(r#""message_31", "#), "{listed}");
        assert!(listed.ends_with(" and 30 more"), "{listed}");
    }

    #[test]
    fn what_is_expected_is_told_also_where_the_page_sent_something_long() {
        let text = told(&json!({"tag": "axpy", "a": "x".repeat(50_000), "x": [], "y": []}));
        assert!(text.ends_with("…, expected f64") && text.len() < 400, "{text}");
    }

    #[test]
    fn a_long_message_is_read_again_a_few_times_only_and_told_as_far_as_that_led() {
        let mut numbers = vec![json!(1); 1_000];
        numbers.push(Value::Null);
        let message = json!({"tag": "axpy", "a": 1, "x": numbers, "y": []});
        assert!(told(&message).starts_with(r#"message "axpy", field x: invalid type: null"#));
        let longer = vec![json!("x"); SEARCHED];
        let message = json!({"tag": "axpy", "a": 1, "x": longer, "y": []});
        assert!(told(&message).starts_with(r#"message "axpy": invalid type: string "x""#));
    }
}
