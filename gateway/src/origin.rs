//! Which pages may connect: those of the gateway's own address, and those that the operator allows.
//! A browser's cookie counts only for them (cross-site websocket hijacking). Pure.

use std::str::FromStr;

/// Scheme, host and port of a page, without the scheme's default port; lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// A text that names no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("give a scheme and a host, such as https://app.example.org or http://localhost:3000")]
pub struct InvalidOrigin;

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://").ok_or(InvalidOrigin)?;
        let default_port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => return Err(InvalidOrigin),
        };
        let unfit = |c: char| c.is_whitespace() || c.is_control() || "/?#@,".contains(c);
        let authority = authority.strip_suffix(default_port).unwrap_or(authority);
        if authority.is_empty() || authority.starts_with(':') || authority.contains(unfit) {
            return Err(InvalidOrigin);
        }
        Ok(Self(format!("{scheme}://{authority}")))
    }
}

impl Origin {
    /// Whether its pages come over TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.0.starts_with("https://")
    }
}

/// The page that a request comes from may not connect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Foreign;

/// Judges a request by its `Origin` and `Host`. A request without an origin comes from no browser
/// and is let through; `Ok(None)`.
pub(crate) fn judge(
    origin: Option<&str>,
    host: Option<&str>,
    allowed: &[Origin],
) -> Result<Option<Origin>, Foreign> {
    let Some(origin) = origin else { return Ok(None) };
    let origin: Origin = origin.parse().map_err(|_| Foreign)?;
    // The gateway itself speaks without TLS; a proxy's public origin stands in the list.
    let own = host.and_then(|host| format!("http://{host}").parse::<Origin>().ok());
    if own.as_ref() == Some(&origin) || allowed.contains(&origin) {
        Ok(Some(origin))
    } else {
        Err(Foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_let_in(origin: &str, host: &str) -> bool {
        let allowed = ["https://app.example.org".parse().unwrap()];
        judge(Some(origin), Some(host), &allowed).is_ok()
    }

    #[test]
    fn the_gateways_own_pages_and_allowed_ones_are_let_in() {
        for (origin, host) in [
            ("http://127.0.0.1:8000", "127.0.0.1:8000"),
            ("http://LocalHost", "localhost"),
            ("http://localhost:80", "localhost"),
            ("http://localhost", "localhost:80"),
            ("https://app.example.org", "gateway.internal:8000"),
            ("https://app.example.org:443", "gateway.internal:8000"),
        ] {
            assert!(is_let_in(origin, host), "{origin} at {host}");
        }
    }

    #[test]
    fn look_alikes_are_not() {
        for origin in [
            "null",
            "",
            "http://127.0.0.1:8001",
            "https://127.0.0.1:8000",
            "http://127.0.0.1:8000.evil.example",
            "http://evil.example",
            "https://app.example.org.evil.example",
            "https://evil.example/https://app.example.org",
            "https://app.example.org:8443",
            "http://app.example.org",
            "https://app.example.org, http://127.0.0.1:8000",
            "file://",
            "chrome-extension://abc",
        ] {
            assert!(!is_let_in(origin, "127.0.0.1:8000"), "{origin}");
        }
    }

    #[test]
    fn a_request_without_an_origin_is_from_no_browser() {
        assert_eq!(judge(None, Some("a"), &[]), Ok(None));
    }

    #[test]
    fn what_an_operator_allows_must_be_an_origin() {
        for bad in ["app.example.org", "*", "https://", "https://a/b", "ftp://a", "https://:80"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
