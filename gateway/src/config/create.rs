//! The arguments of `gateway new`, checked.

use std::path::{Path, PathBuf};

use clap::Args;
use single_state_node::config::Mistakes;

use crate::create::{Library, NewApp};

/// The library's crate beside the sources that this program was built from; they may be gone.
const BESIDE_OUR_SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../worker");

const LONGEST_NAME: usize = 64;

/// Names that Rust or cargo keeps for itself, and crates that the app has.
const TAKEN: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc_macro",
    "pub",
    "ref",
    "return",
    "self",
    "Self",
    "serde",
    "serde_json",
    "single_state_worker",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Name of the app: its folder, made here, and its crate.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Where the library for apps is on this machine: a checkout of single-state, or the folder
    /// `worker` in it; default: the checkout that this program was built from.
    #[arg(long, value_name = "PATH", conflicts_with = "git")]
    path: Option<PathBuf>,
    /// Where its repository is.
    #[arg(long, value_name = "URL")]
    git: Option<String>,
}

pub(super) fn check_new(args: NewArgs, mut mistakes: Mistakes) -> Result<NewApp, Mistakes> {
    let name = check_name(args.name, &mut mistakes);
    let library = match (args.path, args.git) {
        (_, Some(url)) => check_git(url, &mut mistakes),
        (path, None) => check_path(path, &mut mistakes),
    };
    let app = (|| Some(NewApp { name: name?, library: library? }))();
    mistakes.into_result(app)
}

fn check_name(name: Option<String>, mistakes: &mut Mistakes) -> Option<String> {
    let Some(name) = name else {
        mistakes.add("NAME: give the app a name, such as `gateway new my-app`");
        return None;
    };
    let is_fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if !starts || !name.chars().all(is_fine) || name.len() > LONGEST_NAME {
        mistakes.add(format!(
            "NAME {name:?}: give 1 to {LONGEST_NAME} of a-z, A-Z, 0-9, - and _, a letter first"
        ));
        return None;
    }
    if TAKEN.contains(&name.replace('-', "_").as_str()) {
        mistakes.add(format!("NAME {name:?}: Rust, or a crate that the app uses, has this name"));
        return None;
    }
    let folder = Path::new(&name);
    let is_empty = folder.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    // A link that leads nowhere is there, too.
    if folder.symlink_metadata().is_ok() && !is_empty {
        mistakes.add(format!("NAME {name:?}: this is here already, and not an empty folder"));
        return None;
    }
    Some(name)
}

fn check_path(path: Option<PathBuf>, mistakes: &mut Mistakes) -> Option<Library> {
    let found = library_in(path.as_deref().unwrap_or(Path::new(BESIDE_OUR_SOURCES)));
    if found.is_none() {
        mistakes.add(match path {
            Some(path) => {
                format!("--path {path:?}: there is no single-state here, and no worker crate of it")
            }
            None => "--path or --git: say where single-state is, its checkout on this machine or \
                     its repository"
                .to_owned(),
        });
    }
    found.map(Library::Path)
}

/// The crate in this folder, or in its folder `worker`.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let is_library = |folder: &PathBuf| {
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml"));
        manifest.is_ok_and(|text| text.contains("name = \"single-state-worker\""))
    };
    let places = [folder.to_owned(), folder.join("worker")];
    places.into_iter().find(is_library)?.canonicalize().ok()
}

fn check_git(url: String, mistakes: &mut Mistakes) -> Option<Library> {
    let is_url = url.split_once("://").is_some_and(|(scheme, rest)| {
        ["https", "http", "ssh", "git", "file"].contains(&scheme) && !rest.is_empty()
    });
    if !is_url || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        mistakes.add(format!("--git {url:?}: give a URL, such as https://HOST/single-state"));
        return None;
    }
    Some(Library::Git(url))
}
