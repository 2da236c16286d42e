//! Modules without what only their readers need: comments and indentation are half of them. Lines keep
//! their numbers, so that what a browser reports is found in the source.
//!
//! Knows no JavaScript: only comments that have their lines to themselves are left out. So no line of
//! a text in backquotes may look like one; `every_module_says_the_same_without_its_comments` in
//! `gateway/client/test/lean.test.js` sees to that.

/// The module as it is served.
pub(super) fn lean(module: &str) -> String {
    let mut lean = String::with_capacity(module.len());
    let mut in_comment = false;
    for line in module.lines().map(str::trim) {
        let begins = line.starts_with("/*");
        if !(in_comment || begins || line.starts_with("//")) {
            lean.push_str(line);
        }
        in_comment = (in_comment || begins) && !line.ends_with("*/");
        lean.push('\n');
    }
    lean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_indentation_are_left_out_and_lines_keep_their_numbers() {
        let module = "// A module.\n\n/**\n * @param {number} a\n */\nf(a); // stays\n  /** One line. */\n    g();\n";
        assert_eq!(lean(module), "\n\n\n\n\nf(a); // stays\n\ng();\n");
    }

    #[test]
    fn what_only_contains_a_comments_beginning_stays() {
        let module = "const url = 'http://a';\nf(/** @type {any} */ (a));\na = b\n  / 2;\n";
        assert_eq!(
            lean(module),
            "const url = 'http://a';\nf(/** @type {any} */ (a));\na = b\n/ 2;\n"
        );
    }
}
