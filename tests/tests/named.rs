//! Tests that pages of this repository name are where these pages say.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Every name in a row of these pages' tables is that of a test in a file of the same row.
#[test]
fn the_tests_that_are_named_are_there() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a folder around tests/")?;
    for (page, at_least) in [("tests/README.md", 100)] {
        let text = std::fs::read_to_string(root.join(page))?;
        let mut found = 0;
        for row in text.lines().filter(|line| line.starts_with('|')) {
            found += check_row(root, row).with_context(|| format!("in {page}: {row}"))?;
        }
        ensure!(found >= at_least, "{page} names {found} tests only");
    }
    Ok(())
}

/// How many tests the row names.
fn check_row(root: &Path, row: &str) -> Result<usize> {
    let mut texts = String::new();
    for path in quoted(row, '`').filter(|part| part.contains('/') && part.contains('.')) {
        if let Ok(text) = std::fs::read_to_string(root.join(path)) {
            texts.push_str(&text);
        }
    }
    let is_function =
        |part: &&str| part.matches('_').count() > 2 && !part.contains(['/', ' ', '.']);
    let functions = quoted(row, '`').filter(is_function).map(|name| format!("fn {name}()"));
    let sentences = quoted(row, '"').map(|name| format!("test(\"{name}"));
    let names: Vec<_> = functions.chain(sentences).collect();
    for name in &names {
        ensure!(texts.contains(name), "no {name} in the files of its row");
    }
    Ok(names.len())
}

/// The parts of a text between two such quotes.
fn quoted(text: &str, quote: char) -> impl Iterator<Item = &str> {
    text.split(quote).skip(1).step_by(2)
}
