//! Which session a browser means: `?session=`, else its cookie, else a new one. Knows no sockets.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::COOKIE;
use single_state_proto::id::{ChannelId, ConnectionId, InvalidId, SessionId};

const COOKIE_NAME: &str = "single_state";

/// Seconds that a browser keeps the cookie: 30 days.
const COOKIE_MAX_AGE: u32 = 30 * 24 * 60 * 60;

/// The session of one connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) session: SessionId,
    /// Minted just now: nobody can have used it before.
    pub(crate) fresh: bool,
    /// `Set-Cookie` of the answer, when the browser has to remember the session.
    pub(crate) cookie: Option<String>,
}

/// Chooses by the request's query and headers. An id that is none is an error in the query, where
/// somebody put it by hand, and ignored in a cookie, which the user cannot see.
pub(crate) fn choose(
    query: Option<&str>,
    headers: &HeaderMap,
    random: Random,
) -> Result<Chosen, InvalidId> {
    let asked = query.unwrap_or_default().split('&').find_map(|pair| match pair.split_once('=') {
        Some(("session", value)) => Some(value),
        None if pair == "session" => Some(""),
        _ => None,
    });
    match asked {
        Some("new") => mint(random),
        Some(id) => Ok(Chosen { session: id.parse()?, fresh: false, cookie: None }),
        None => match cookie(headers).and_then(|id| id.parse().ok()) {
            Some(session) => Ok(Chosen { session, fresh: false, cookie: None }),
            None => mint(random),
        },
    }
}

fn mint(random: Random) -> Result<Chosen, InvalidId> {
    let id = URL_SAFE_NO_PAD.encode(random.session);
    let cookie =
        format!("{COOKIE_NAME}={id}; Path=/; HttpOnly; SameSite=Lax; Max-Age={COOKIE_MAX_AGE}");
    Ok(Chosen { session: id.parse()?, fresh: true, cookie: Some(cookie) })
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|line| line.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE_NAME).then_some(value))
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

    fn choose_from(query: Option<&str>, cookies: &[&str]) -> Result<Chosen, InvalidId> {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(COOKIE, cookie.parse().unwrap());
        }
        choose(query, &headers, Random::draw().unwrap())
    }

    fn existing(id: &str) -> Chosen {
        Chosen { session: id.parse().unwrap(), fresh: false, cookie: None }
    }

    #[test]
    fn the_query_wins_over_the_cookie() {
        let cookie = ["single_state=theirs"];
        assert_eq!(choose_from(Some("a=1&session=mine"), &cookie).unwrap(), existing("mine"));
        assert_eq!(choose_from(Some("a=1"), &cookie).unwrap(), existing("theirs"));
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let chosen = choose_from(None, &["a=b; single_state=mine ;c=d"]).unwrap();
        assert_eq!(chosen, existing("mine"));
        assert_eq!(choose_from(None, &["a=b", "single_state=mine"]).unwrap(), existing("mine"));
    }

    #[test]
    fn without_either_an_id_of_128_random_bits_is_minted_and_remembered() {
        let (one, other) = (choose_from(None, &[]).unwrap(), choose_from(None, &[]).unwrap());
        assert!(one.fresh);
        assert_eq!(one.session.as_str().len(), 22);
        assert_ne!(one.session, other.session);
        let cookie = one.cookie.unwrap();
        assert!(cookie.starts_with(&format!("single_state={}; Path=/; HttpOnly", one.session)));
    }

    #[test]
    fn session_new_starts_over_in_spite_of_a_cookie() {
        assert!(choose_from(Some("session=new"), &["single_state=mine"]).unwrap().fresh);
    }

    #[test]
    fn an_id_that_is_none_is_refused_in_the_query_and_replaced_in_the_cookie() {
        let long = format!("session={}", "x".repeat(65));
        for bad in ["session=", "session", "session=a%20b", "session=a/b", long.as_str()] {
            choose_from(Some(bad), &[]).unwrap_err();
        }
        assert!(choose_from(None, &["single_state=a b"]).unwrap().fresh);
    }
}
