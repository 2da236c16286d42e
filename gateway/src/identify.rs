//! Which session a browser means: `?session=`, else its cookie, else a new one. Knows no sockets.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::COOKIE;
use single_state_proto::id::{ChannelId, ConnectionId, InvalidId, SessionId};

use crate::token::{KeyRing, LIFETIME, Seconds};

const COOKIE_NAME: &str = "single_state";
/// Set beside it where pages come over TLS: a sibling subdomain cannot plant a cookie of this name.
const HOST_COOKIE_NAME: &str = "__Host-single_state";

/// Who may open a session.
#[derive(Debug, Clone)]
pub enum Sessions {
    /// Whoever knows its id.
    Unsigned,
    /// Whoever has a token that a gateway signed.
    Signed(KeyRing),
}

/// The session of one connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) session: SessionId,
    /// Minted just now: nobody can have used it before.
    pub(crate) fresh: bool,
    /// The address names it.
    pub(crate) named: bool,
    /// `Set-Cookie` of the answer, when the browser remembers the session itself. Each answer
    /// renews the token.
    pub(crate) cookies: Vec<String>,
}

/// Why the session that was asked for is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It is no id at all.
    NotAnId,
    /// No gateway signed it, or it has expired.
    NotSigned,
}

/// What a request is judged by.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
    /// The page came over TLS.
    pub(crate) secure: bool,
    pub(crate) now: Seconds,
}

impl Sessions {
    /// Chooses the session of a request. What is wrong in the query, where somebody put it by hand,
    /// is an error; what is wrong in a cookie, which the user cannot see, is replaced by a fresh
    /// session.
    pub(crate) fn choose(&self, request: &Request<'_>, random: Random) -> Result<Chosen, Denied> {
        let pairs = request.query.unwrap_or_default().split('&');
        let asked =
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect::<Vec<_>>();
        match asked.iter().find(|(name, _)| *name == "session") {
            Some((_, "new")) => self.mint(request, random),
            Some((_, token)) => {
                let session = self.open(token, request.now)?;
                Ok(Chosen { session, fresh: false, named: true, cookies: Vec::new() })
            }
            None => match cookie(request.headers).map(|token| self.open(token, request.now)) {
                Some(Ok(session)) => {
                    let cookies = self.cookies(&session, request);
                    Ok(Chosen { session, fresh: false, named: false, cookies })
                }
                _ => self.mint(request, random),
            },
        }
    }

    /// The session that a token opens.
    pub(crate) fn open(&self, token: &str, now: Seconds) -> Result<SessionId, Denied> {
        match self {
            Self::Unsigned => token.parse().map_err(|_| Denied::NotAnId),
            Self::Signed(keys) => keys.verify(token, now).ok_or(Denied::NotSigned),
        }
    }

    /// What opens a session from now on: its token, or its id where ids are not signed.
    pub(crate) fn renew(&self, session: &SessionId, now: Seconds) -> String {
        match self {
            Self::Unsigned => session.to_string(),
            Self::Signed(keys) => keys.sign(session, now),
        }
    }

    fn mint(&self, request: &Request<'_>, random: Random) -> Result<Chosen, Denied> {
        let id = URL_SAFE_NO_PAD.encode(random.session);
        let session = id.parse().map_err(|_| Denied::NotAnId)?;
        let cookies = self.cookies(&session, request);
        Ok(Chosen { session, fresh: true, named: false, cookies })
    }

    fn cookies(&self, session: &SessionId, request: &Request<'_>) -> Vec<String> {
        let token = self.renew(session, request.now);
        let max_age = LIFETIME.as_secs();
        let secure = if request.secure { "; Secure" } else { "" };
        let cookie = |name| {
            format!("{name}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age}{secure}")
        };
        let host = request.secure.then(|| cookie(HOST_COOKIE_NAME));
        std::iter::once(cookie(COOKIE_NAME)).chain(host).collect()
    }
}

/// The time, as tokens count it.
pub(crate) fn now() -> Seconds {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Seconds(since_1970.map_or(0, |duration| duration.as_secs()))
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let named = |wanted: &str| {
        let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        lines
            .flat_map(|line| line.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .find_map(|(name, value)| (name == wanted).then_some(value))
    };
    named(HOST_COOKIE_NAME).or_else(|| named(COOKIE_NAME))
}

/// Entropy for one connection: a session id of 128 bits, should it need one, and the names of its
/// channel and socket.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Random {
    session: [u8; 16],
    channel: [u8; 16],
    connection: [u8; 8],
}

impl Random {
    /// From the system; fails only when the system has none to give.
    pub(crate) fn draw() -> Result<Self, getrandom::Error> {
        let mut random = Self::default();
        getrandom::fill(&mut random.session)?;
        getrandom::fill(&mut random.channel)?;
        getrandom::fill(&mut random.connection)?;
        Ok(random)
    }

    /// A plain page's channel has no name outside; this one is drawn for it.
    pub(crate) fn channel(&self) -> Result<ChannelId, InvalidId> {
        URL_SAFE_NO_PAD.encode(self.channel).parse()
    }

    pub(crate) fn connection(&self) -> ConnectionId {
        ConnectionId(u64::from_be_bytes(self.connection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Seconds = Seconds(1_800_000_000);

    fn signed() -> Sessions {
        Sessions::Signed(KeyRing::parse(&"a".repeat(64)).unwrap())
    }

    fn choose(
        sessions: &Sessions,
        query: Option<&str>,
        cookies: &[&str],
    ) -> Result<Chosen, Denied> {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(COOKIE, cookie.parse().unwrap());
        }
        let request = Request { query, headers: &headers, secure: false, now: NOW };
        sessions.choose(&request, Random::draw().unwrap())
    }

    fn chosen(sessions: &Sessions, query: Option<&str>, cookies: &[&str]) -> String {
        choose(sessions, query, cookies).unwrap().session.to_string()
    }

    #[test]
    fn the_query_wins_over_the_cookie() {
        let cookie = ["single_state=theirs"];
        assert_eq!(chosen(&Sessions::Unsigned, Some("a=1&session=mine"), &cookie), "mine");
        assert_eq!(chosen(&Sessions::Unsigned, Some("a=1"), &cookie), "theirs");
    }

    #[test]
    fn the_cookie_is_found_among_others_and_the_one_that_cannot_be_planted_wins() {
        let choose = |cookies| chosen(&Sessions::Unsigned, None, cookies);
        assert_eq!(choose(&["a=b; single_state=mine ;c=d"]), "mine");
        assert_eq!(choose(&["a=b", "single_state=mine"]), "mine");
        assert_eq!(choose(&["single_state=planted; __Host-single_state=mine"]), "mine");
    }

    #[test]
    fn without_either_an_id_of_128_random_bits_is_minted_and_remembered() {
        let mint = || choose(&Sessions::Unsigned, None, &[]).unwrap();
        let (one, other) = (mint(), mint());
        assert!(one.fresh);
        assert_eq!(one.session.as_str().len(), 22);
        assert_ne!(one.session, other.session);
        let expected = "; Path=/; HttpOnly; SameSite=Lax; Max-Age=2592000";
        assert_eq!(one.cookies, [format!("single_state={}{expected}", one.session)]);
    }

    #[test]
    fn session_new_starts_over_in_spite_of_a_cookie() {
        let sessions = Sessions::Unsigned;
        assert!(choose(&sessions, Some("session=new"), &["single_state=mine"]).unwrap().fresh);
    }

    #[test]
    fn an_id_that_is_none_is_refused_in_the_query_and_replaced_in_the_cookie() {
        let (sessions, long) = (Sessions::Unsigned, format!("session={}", "x".repeat(65)));
        for bad in ["session=", "session", "session=a%20b", "session=a/b", long.as_str()] {
            assert_eq!(choose(&sessions, Some(bad), &[]), Err(Denied::NotAnId));
        }
        assert!(choose(&sessions, None, &["single_state=a b"]).unwrap().fresh);
    }

    #[test]
    fn with_keys_only_signed_tokens_open_a_session() {
        let sessions = signed();
        let minted = choose(&sessions, None, &[]).unwrap();
        let pair = minted.cookies[0].split(';').next().unwrap();
        let token = pair.strip_prefix("single_state=").unwrap();
        assert_eq!(choose(&sessions, None, &[pair]).unwrap().session, minted.session);
        let query = format!("session={token}");
        assert_eq!(choose(&sessions, Some(&query), &[]).unwrap().session, minted.session);
        let forged = format!("session={}", minted.session);
        assert_eq!(choose(&sessions, Some(&forged), &[]), Err(Denied::NotSigned));
        let planted = format!("single_state={}", minted.session);
        assert!(choose(&sessions, None, &[&planted]).unwrap().fresh);
    }

    #[test]
    fn pages_over_tls_get_a_cookie_that_no_subdomain_can_plant() {
        let headers = HeaderMap::new();
        let request = Request { query: None, headers: &headers, secure: true, now: NOW };
        let cookies = signed().choose(&request, Random::draw().unwrap()).unwrap().cookies;
        assert!(cookies[0].starts_with("single_state=") && cookies[0].ends_with("; Secure"));
        assert!(cookies[1].starts_with("__Host-single_state=") && cookies[1].ends_with("; Secure"));
    }
}
