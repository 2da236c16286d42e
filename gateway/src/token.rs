//! Signed session tokens: who shows one was given it by a gateway of this cluster. Pure: time and
//! keys are arguments.
//!
//! A token is `ID.EXPIRY.MAC`: the session's id, seconds since 1970 until which it counts, and an
//! HMAC-SHA256 of both as base64url. An id has no dots, so the parts cannot be confused. Keys form a
//! ring: the first signs, all verify; to rotate, add the new key last everywhere, then move it first.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use single_state_proto::id::SessionId;

/// How long a token counts after it was made.
pub const LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Clocks of gateways may differ by so much.
const LEEWAY_SECONDS: u64 = 60;

/// No token is longer: an id, twenty digits, a MAC and two dots.
const LONGEST: usize = 64 + 20 + 43 + 2;

/// Makes an attacker's MAC of something else useless here.
const PURPOSE: &[u8] = b"single-state session token 1\0";

type HmacSha256 = Hmac<Sha256>;

/// Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub u64);

/// The keys that sign and verify. Never empty.
#[derive(Clone)]
pub struct KeyRing(Vec<HmacSha256>);

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyRing({} secret keys)", self.0.len())
    }
}

/// Why a text is no ring of keys. Never repeats what may be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    /// There is none.
    #[error("it holds no key; write one key of 64 hex digits on each line")]
    Empty,
    /// This line is something else.
    #[error("line {0} is no key of 64 hex digits")]
    Line(usize),
}

impl KeyRing {
    /// Reads one key a line; empty lines and lines that begin with `#` are passed over.
    pub fn parse(text: &str) -> Result<Self, InvalidKeys> {
        let lines = text.lines().map(str::trim).enumerate();
        let keys = lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(i, line)| key(line).ok_or(InvalidKeys::Line(i + 1)))
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(InvalidKeys::Empty) } else { Ok(Self(keys)) }
    }

    /// A token for `session` that counts for [`LIFETIME`] from `now`.
    pub fn sign(&self, session: &SessionId, now: Seconds) -> String {
        let claim = format!("{session}.{}", now.0 + LIFETIME.as_secs());
        let mac = self.0.first().map(|key| mac(key, &claim).finalize().into_bytes());
        format!("{claim}.{}", URL_SAFE_NO_PAD.encode(mac.unwrap_or_default()))
    }

    /// The session of a token that a gateway signed and that counts at `now`.
    pub fn verify(&self, token: &str, now: Seconds) -> Option<SessionId> {
        if token.len() > LONGEST {
            return None;
        }
        let (claim, signature) = token.rsplit_once('.')?;
        let (id, expiry) = claim.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let signed = |key: &HmacSha256| mac(key, claim).verify_slice(&signature).is_ok();
        if !self.0.iter().any(signed) {
            return None;
        }
        let expiry: u64 = expiry.parse().ok()?;
        (now.0 <= expiry.saturating_add(LEEWAY_SECONDS)).then(|| id.parse().ok())?
    }
}

fn key(line: &str) -> Option<HmacSha256> {
    if line.len() != 64 || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&line[2 * i..2 * i + 2], 16).ok()?;
    }
    HmacSha256::new_from_slice(&bytes).ok()
}

fn mac(key: &HmacSha256, claim: &str) -> HmacSha256 {
    key.clone().chain_update(PURPOSE).chain_update(claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Seconds = Seconds(1_800_000_000);

    fn ring(keys: &[char]) -> KeyRing {
        let lines: Vec<String> = keys.iter().map(|digit| digit.to_string().repeat(64)).collect();
        KeyRing::parse(&lines.join("\n")).unwrap()
    }

    fn token() -> String {
        ring(&['a']).sign(&"mine".parse().unwrap(), NOW)
    }

    #[test]
    fn a_signed_token_opens_its_session_until_it_expires() {
        let ring = ring(&['a']);
        assert_eq!(ring.verify(&token(), NOW).unwrap().as_str(), "mine");
        let last = NOW.0 + LIFETIME.as_secs() + LEEWAY_SECONDS;
        assert!(ring.verify(&token(), Seconds(last)).is_some());
        assert!(ring.verify(&token(), Seconds(last + 1)).is_none());
    }

    #[test]
    fn nothing_else_opens_a_session() {
        let ring = ring(&['a']);
        let (claim, signature) =
            token().rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let longer = claim.replace("mine.1", "mine.9");
        for forged in [
            "mine".to_owned(),
            claim.clone(),
            format!("{claim}."),
            format!("{claim}.{}", &signature[1..]),
            format!("yours{}.{signature}", &claim[4..]),
            format!("{longer}.{signature}"),
            format!("{claim}.{signature}="),
            format!("{}.{signature}", "x".repeat(1 << 20)),
            ".".to_owned(),
            "..".to_owned(),
            String::new(),
        ] {
            assert_eq!(ring.verify(&forged, NOW), None, "{forged:.80}");
        }
    }

    #[test]
    fn rotation_drops_nobody() {
        let old = token();
        assert!(ring(&['a', 'b']).verify(&old, NOW).is_some(), "the new key is added last");
        let new = ring(&['b', 'a']).sign(&"mine".parse().unwrap(), NOW);
        assert!(
            ring(&['a', 'b']).verify(&new, NOW).is_some(),
            "others have not moved it first yet"
        );
        assert!(ring(&['b', 'a']).verify(&old, NOW).is_some());
        assert!(ring(&['b']).verify(&old, NOW).is_none(), "the old key is gone for good");
    }

    #[test]
    fn a_file_of_keys_may_have_comments_and_names_the_line_of_a_mistake() {
        let key = "0123456789abcdef".repeat(4);
        assert!(KeyRing::parse(&format!("# first signs\n{key}\n\n{key}\n")).is_ok());
        assert_eq!(KeyRing::parse("# none\n").unwrap_err(), InvalidKeys::Empty);
        assert_eq!(KeyRing::parse(&"+f".repeat(32)).unwrap_err(), InvalidKeys::Line(1));
        let error = KeyRing::parse(&format!("{key}\nsecret")).unwrap_err();
        assert_eq!(error.to_string(), "line 2 is no key of 64 hex digits");
    }
}
