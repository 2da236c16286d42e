//! Who may link: the flags that gateways and workers have in common for it, checked. A link that
//! leaves this machine without keys must be asked for by name.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::Path;

use clap::builder::BoolishValueParser;
use single_state_proto::key::LinkKeys;

use crate::config::Mistakes;

/// Flags of both binaries.
#[derive(Debug, clap::Args)]
pub struct LinkArgs {
    /// Keys that gateways and workers prove to each other, one a line, 64 hex digits: the first
    /// proves, all verify.
    #[arg(long, env = "SINGLE_STATE_LINK_KEY_FILE", value_name = "FILE")]
    link_key_file: Option<OsString>,
    /// In place of keys: link with other machines as they come; whoever reaches a worker may open
    /// any session.
    #[arg(
        long,
        env = "SINGLE_STATE_INSECURE_LINKS",
        value_parser = BoolishValueParser::new()
    )]
    insecure_links: bool,
}

impl LinkArgs {
    /// Whether links may leave this machine: there are keys, or it was asked for by name.
    pub fn beyond_loopback(&self) -> bool {
        self.insecure_links || self.file().is_some()
    }

    /// An empty variable is none.
    fn file(&self) -> Option<&OsStr> {
        self.link_key_file.as_deref().filter(|file| !file.is_empty())
    }

    /// The keys of this process's links, `Some(None)` if they have none; `None` after a mistake.
    /// `flag` says where `addresses` stand, the workers' ends of the links.
    pub fn check<'a>(
        &self,
        flag: &str,
        addresses: impl IntoIterator<Item = &'a str>,
        mistakes: &mut Mistakes,
    ) -> Option<Option<LinkKeys>> {
        match (self.file(), self.insecure_links) {
            (Some(_), true) => mistakes.add("--link-key-file and --insecure-links: choose one"),
            (Some(path), false) => return read(path.as_ref(), mistakes).map(Some),
            (None, true) => return Some(None),
            (None, false) => {
                // What is no HOST:PORT is another mistake.
                let mut known = addresses.into_iter().filter(|address| address.contains(':'));
                let Some(bare) = known.find(|address| !is_loopback(address)) else {
                    return Some(None);
                };
                mistakes.add(format!(
                    "{flag} {bare}: a link beyond loopback needs --link-key-file, a file of keys \
                     made with `openssl rand -hex 32`, or --insecure-links"
                ));
            }
        }
        None
    }
}

fn read(path: &Path, mistakes: &mut Mistakes) -> Option<LinkKeys> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    text.and_then(|text| LinkKeys::parse(&text).map_err(|error| error.to_string()))
        .map_err(|error| mistakes.add(format!("--link-key-file {}: {error}", path.display())))
        .ok()
}

/// Whether `HOST:PORT` can be reached from this machine alone. Of names only `localhost` is known.
pub fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let ip = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || ip.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Args {
        #[command(flatten)]
        links: LinkArgs,
    }

    fn check(flags: &[&str], addresses: &[&str]) -> Result<Option<LinkKeys>, Vec<String>> {
        let line = std::iter::once("sample").chain(flags.iter().copied()).map(OsString::from);
        let args = Args::try_parse_from(line).unwrap();
        let mut mistakes = Mistakes::default();
        let keys = args.links.check("--listen", addresses.iter().copied(), &mut mistakes);
        mistakes.into_result(keys).map_err(|mistakes| mistakes.sentences().to_vec())
    }

    fn key_file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn links_on_loopback_need_no_key() {
        let loopback =
            ["127.0.0.1:0", "127.9.9.9:7", "[::1]:7", "[::ffff:127.0.0.1]:7", "LocalHost:7"];
        assert!(check(&[], &loopback).unwrap().is_none());
    }

    #[test]
    fn bare_links_beyond_loopback_are_a_mistake_unless_asked_for() {
        for bare in [
            "0.0.0.0:7",
            "[::]:7",
            "10.0.0.1:7",
            "128.0.0.1:7",
            "[fe80::1]:7",
            "worker-0:7",
            "localhost.example:7",
            "127.0.0.1.example:7",
        ] {
            let mistakes = check(&[], &["127.0.0.1:7", bare]).unwrap_err();
            let expected = format!("--listen {bare}: a link beyond loopback needs --link-key-file");
            assert!(mistakes.len() == 1 && mistakes[0].starts_with(&expected), "{mistakes:?}");
            assert!(check(&["--insecure-links"], &[bare]).unwrap().is_none());
        }
    }

    #[test]
    fn a_key_file_lets_links_go_anywhere() {
        let file = key_file(&"a1".repeat(32));
        let path = file.path().to_str().unwrap();
        assert!(check(&["--link-key-file", path], &["0.0.0.0:7"]).unwrap().is_some());
        assert!(check(&["--link-key-file="], &["0.0.0.0:7"]).is_err(), "an empty name is none");
        let both = check(&["--link-key-file", path, "--insecure-links"], &[]).unwrap_err();
        assert!(both[0].ends_with("choose one"), "{both:?}");
    }

    #[test]
    fn a_key_file_that_is_none_is_one_mistake_that_does_not_repeat_it() {
        let file = key_file("secret");
        let path = file.path().to_str().unwrap();
        let mistakes = check(&["--link-key-file", path], &["0.0.0.0:7"]).unwrap_err();
        let expected = format!("--link-key-file {path}: line 1 is no key of 64 hex digits");
        assert_eq!(mistakes, [expected]);
        let missing = check(&["--link-key-file", "/no/such/file"], &["0.0.0.0:7"]).unwrap_err();
        assert!(missing[0].starts_with("--link-key-file /no/such/file: No such file"));
    }
}
