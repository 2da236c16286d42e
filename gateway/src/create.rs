//! `gateway new`: writes an app's crate that is ready to run, with a page and a test. The files are
//! in `gateway/template/`; `tests/tests/template.rs` builds what comes of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use single_state_node::exit;

/// Where the library for apps comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Library {
    /// The folder of its crate, absolute.
    Path(PathBuf),
    /// A repository.
    Git(String),
}

/// An app to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApp {
    /// Of the crate, and of its folder.
    pub(crate) name: String,
    pub(crate) library: Library,
}

macro_rules! template {
    ($($from:literal => $to:literal)*) => {
        /// Paths in the new folder, and what is written there.
        const FILES: &[(&str, &str)] =
            &[$(($to, include_str!(concat!("../template/", $from)))),*];
    };
}

// A manifest of its name would make the template a package of this workspace.
template! {
    "manifest.toml" => "Cargo.toml"
    "gitignore" => ".gitignore"
    "README.md" => "README.md"
    "src/lib.rs" => "src/lib.rs"
    "src/main.rs" => "src/main.rs"
    "tests/session.rs" => "tests/session.rs"
    "web/index.html" => "web/index.html"
}

/// Writes it, and says what to do next.
#[expect(clippy::print_stdout, reason = "what to do next is the command's result")]
pub fn run(app: &NewApp) -> ExitCode {
    match app.write() {
        Ok(()) => {
            let name = &app.name;
            println!(
                "{name}/ is written. Next:\n\n  cd {name}\n  gateway dev --web web --build 'cargo build' \
                 -- target/debug/{name}\n\nIts README.md says what is where."
            );
            ExitCode::from(exit::CLEAN)
        }
        Err(error) => exit::failed(&error),
    }
}

impl NewApp {
    fn write(&self) -> io::Result<()> {
        for (path, template) in FILES {
            let path = Path::new(&self.name).join(path);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(path, self.fill(template))?;
        }
        Ok(())
    }

    fn fill(&self, template: &str) -> String {
        let source = match &self.library {
            Library::Path(folder) => format!("path = {}", quoted(&folder.to_string_lossy())),
            Library::Git(url) => format!("git = {}", quoted(url)),
        };
        let template = template.replace("@name@", &self.name).replace("@source@", &source);
        template.replace("@crate@", &self.name.replace('-', "_"))
    }
}

/// A text as TOML writes it, which is as JSON does.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_be_filled_in() {
        let library = Library::Path("/a \"quoted\" folder".into());
        let app = NewApp { name: "my-app".to_owned(), library };
        for (path, template) in FILES {
            let filled = app.fill(template);
            assert!(!filled.contains('@'), "{path}: {filled}");
        }
        let manifest = app.fill(FILES[0].1);
        assert!(manifest.contains(r#"{ path = "/a \"quoted\" folder" }"#), "{manifest}");
        assert!(app.fill(FILES[4].1).contains("use my_app::Samples;"));
    }
}
