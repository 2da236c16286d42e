//! Mistakes in flags are told all at once, each with what to do.

use super::*;

fn sentences(line: &str) -> Vec<String> {
    let args = line.split(' ').map(OsString::from);
    let Parsed::Arguments(cli, mistakes) = parse::<Cli>(args) else {
        panic!("{line} must give arguments");
    };
    let checked = match cli.command {
        Command::Run(args) => check_run(args, mistakes).map(drop),
        Command::Dev(args) => check_dev(args, mistakes).map(drop),
        Command::Topology(args) => check_topology(args, mistakes).map(drop),
    };
    checked.err().map(|mistakes| mistakes.sentences().to_vec()).unwrap_or_default()
}

#[test]
fn a_list_of_workers_is_enough_to_run() {
    let run = "gateway run --unsigned-sessions --workers 127.0.0.1:7000,localhost:7001";
    assert_eq!(sentences(run), [""; 0]);
    assert_eq!(sentences("gateway dev"), [""; 0]);
}

#[test]
fn all_mistakes_of_run_are_told_at_once() {
    let found = sentences(
        "gateway run --listen 8000 --workers a,b:7000 --placement ring --wat 3 \
         --placement-key xyz --max-message-bytes 99999999999 --park-timeout long \
         --hello-timeout now --drain-timeout late --drain-rate fast \
         --max-handshake-wait -1 --web /no/such/folder --log-format xml",
    );
    let all = found.join("\n");
    for flag in [
        "--listen",
        "--workers",
        "--placement",
        "--wat",
        "--placement-key",
        "--max-message-bytes",
        "--park-timeout",
        "--hello-timeout",
        "--drain-timeout",
        "--drain-rate",
        "--max-handshake-wait",
        "--web",
        "--log-format",
    ] {
        assert!(all.contains(flag), "{flag} is missing in:\n{all}");
    }
    assert!(!all.contains("xyz"), "a secret must not be repeated:\n{all}");
}

#[test]
fn a_limit_of_0_bytes_is_what_a_link_carries() {
    for (text, expected) in [("0", Some(16 << 20)), ("1", Some(1)), ("16777217", None)] {
        let mut mistakes = Mistakes::default();
        assert_eq!(bytes("--max-message-bytes", text, &mut mistakes), expected);
        assert_eq!(mistakes.sentences().is_empty(), expected.is_some());
    }
}

#[test]
fn no_worker_and_the_same_worker_twice_are_mistakes() {
    assert_eq!(sentences("gateway run --unsigned-sessions").len(), 1);
    assert_eq!(sentences("gateway run --unsigned-sessions --workers [::1]:1,[::1]:1").len(), 1);
}

#[test]
fn workers_are_listed_or_read_from_a_topology_but_not_both() {
    let neither = sentences("gateway run --unsigned-sessions");
    assert!(neither.len() == 1 && neither[0].contains("--topology"), "{neither:?}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), r#"{"generation": 1, "workers": ["127.0.0.1:1"]}"#).unwrap();
    let run = format!("gateway run --unsigned-sessions --topology file:{}", file.path().display());
    assert_eq!(sentences(&run), [""; 0]);
    let both = sentences(&format!("{run} --workers 127.0.0.1:1 --park-timeout long"));
    assert!(both.len() == 2 && both[0].ends_with("choose one"), "{both:?}");
    let generation = sentences(&format!("{run} --generation 2"));
    assert!(generation.len() == 1 && generation[0].starts_with("--generation"), "{generation:?}");
}

#[test]
fn a_topology_that_names_no_source_or_a_bad_file_is_a_mistake_among_the_others() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), r#"{"generation": 1, "workers": ["worker-0:1"]}"#).unwrap();
    let bare = format!("file:{}", file.path().display());
    for (source, wrong) in [
        ("topology.json", "\"topology.json\": give file:PATH or kubernetes:"),
        ("file:", "\"file:\": give file:PATH or kubernetes:"),
        ("file:/no/such/file", "file:/no/such/file: No such file"),
        (&bare, &format!("{bare}: worker-0:1: a link beyond loopback needs")),
    ] {
        let found = sentences(&format!("gateway run --topology {source} --listen 1"));
        let expected = format!("--topology {wrong}");
        assert!(found.iter().any(|sentence| sentence.starts_with(&expected)), "{found:?}");
        assert_eq!(found.len(), 3, "{found:?}");
    }
    let insecure = format!("gateway run --unsigned-sessions --insecure-links --topology {bare}");
    assert_eq!(sentences(&insecure), [""; 0]);
}

#[test]
fn kubernetes_is_a_mistake_unless_it_is_built_in() {
    let run = "gateway run --unsigned-sessions --topology kubernetes:statefulset/worker";
    let found = sentences(&format!("{run} --insecure-links"));
    if cfg!(feature = "kubernetes") {
        assert_eq!(found, [""; 0]);
        let bare = sentences(run);
        assert!(bare.len() == 1 && bare[0].contains("a link beyond loopback"), "{bare:?}");
        let port = sentences(&format!("{run} --insecure-links --worker-port 0"));
        assert!(port.len() == 1 && port[0].starts_with("--worker-port"), "{port:?}");
    } else {
        assert!(found.len() == 1 && found[0].contains("--features kubernetes"), "{found:?}");
    }
    for name in ["statefulset/", "statefulset/a/b", "deployment/worker", "statefulset/Worker"] {
        let found = sentences(&format!(
            "gateway run --unsigned-sessions --insecure-links --topology kubernetes:{name}"
        ));
        assert!(found[0].ends_with("give kubernetes:statefulset/NAME"), "{found:?}");
    }
}

#[test]
fn ids_are_signed_or_unsigned_on_purpose() {
    let neither = sentences("gateway run --workers localhost:1");
    assert!(neither[0].contains("--unsigned-sessions"), "{neither:?}");
    let keys = "gateway run --workers localhost:1 --session-keys-file /no/such/file";
    assert!(sentences(keys)[0].starts_with("--session-keys-file /no/such/file: "));
    assert!(sentences(&format!("{keys} --unsigned-sessions"))[0].contains("choose one"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret").unwrap();
    let bad = sentences(&format!(
        "gateway run --workers localhost:1 --session-keys-file {}",
        file.path().display()
    ));
    assert!(bad[0].ends_with("line 1 is no key of 64 hex digits"), "{bad:?}");
}

#[test]
fn links_to_other_machines_have_keys_or_are_insecure_on_purpose() {
    let run = "gateway run --unsigned-sessions --workers localhost:1,b:1,c:1";
    let bare = sentences(run);
    assert!(bare.len() == 1 && bare[0].starts_with("--workers b:1: "), "{bare:?}");
    assert_eq!(sentences(&format!("{run} --insecure-links")), [""; 0]);
    let missing = sentences(&format!("{run} --link-key-file /no/such/file"));
    assert!(missing.len() == 1 && missing[0].starts_with("--link-key-file "), "{missing:?}");
}

#[test]
fn an_allowed_origin_must_be_one() {
    let line = "gateway dev --allow-origin https://a.example --allow-origin b.example";
    assert_eq!(sentences(line).len(), 1);
}

/// What the workers of a `gateway dev` are to be started with.
fn dev_options(line: &str) -> DevOptions {
    let Parsed::Arguments(Cli { command: Command::Dev(args) }, mistakes) =
        parse::<Cli>(line.split(' ').map(OsString::from))
    else {
        panic!("{line} must give arguments of dev");
    };
    check_dev(args, mistakes).unwrap().1
}

#[test]
fn workers_of_dev_keep_sessions_in_the_data_folder_unless_a_store_is_named() {
    let here = std::env::current_dir().unwrap();
    let options = dev_options("gateway dev");
    assert_eq!(options.data, Some(here.join(".single-state")));
    let file = here.join(".single-state/sessions.sqlite");
    assert_eq!(options.store, *format!("sqlite:{}", file.display()));
    assert_eq!(dev_options("gateway dev --data /a/b").store, *"sqlite:/a/b/sessions.sqlite");
    let options = dev_options("gateway dev --data /a/b --store memory:");
    assert_eq!((options.data, options.store), (None, "memory:".into()), "no folder is needed");
}

#[test]
fn what_sqlite_writes_is_no_source() {
    let options = dev_options("gateway dev --data /a/b");
    assert!(options.not_sources.contains(&"/a/b".into()), "{options:?}");
    let options = dev_options("gateway dev --store sqlite:data/own.db");
    for file in ["data/own.db", "data/own.db-wal", "data/own.db-shm", "data/own.db.lock"] {
        assert!(options.not_sources.contains(&file.into()), "{file} in {options:?}");
    }
}
