//! What processes print, cut into lines and put on the supervisor's stderr under a label.
//!
//! stdout stays free for the one line that names the gateway's address.

use std::{
    io::{self, IsTerminal as _, Write as _},
    mem,
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A longer line is printed in pieces. Held per stream: `LONGEST_LINE` + `READ_AT_ONCE` bytes, so
/// 24 KiB for the two of a process.
const LONGEST_LINE: usize = 8 * 1024;
const READ_AT_ONCE: usize = 4 * 1024;
/// The longest UTF-8 character is 4 bytes: a cut that has to move, moves by less.
const CHAR_REST: usize = 3;
/// ANSI foreground colours that are legible on light and dark.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

const _: () = assert!(LONGEST_LINE > CHAR_REST);

/// Whose line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    Dev,
    Build,
    Worker(u32),
}

/// Prints labelled lines, one `write` each, so that they do not mix with those of the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Printer {
    sink: Sink,
    coloured: bool,
}

#[derive(Debug, Clone)]
enum Sink {
    Stderr,
    #[cfg(test)]
    Memory(std::rc::Rc<std::cell::RefCell<Vec<u8>>>),
}

impl Printer {
    /// To stderr, coloured if that is a terminal and `no_color` (the variable NO_COLOR) is not set.
    pub(crate) fn stderr(no_color: bool) -> Self {
        Self { sink: Sink::Stderr, coloured: !no_color && io::stderr().is_terminal() }
    }

    #[cfg(test)]
    pub(crate) fn memory() -> (Self, std::rc::Rc<std::cell::RefCell<Vec<u8>>>) {
        let memory = std::rc::Rc::default();
        (Self { sink: Sink::Memory(std::rc::Rc::clone(&memory)), coloured: false }, memory)
    }

    /// Prints one line. That nobody reads stderr any more is no reason to stop.
    pub(crate) fn print(&self, label: Label, line: &str) {
        let line = format!("{}{line}\n", self.prefix(label));
        match &self.sink {
            Sink::Stderr => drop(io::stderr().lock().write_all(line.as_bytes())),
            #[cfg(test)]
            Sink::Memory(memory) => memory.borrow_mut().extend_from_slice(line.as_bytes()),
        }
    }

    fn prefix(&self, label: Label) -> String {
        let (name, colour) = match label {
            Label::Dev => ("dev".to_owned(), 1),
            Label::Build => ("build".to_owned(), 1),
            Label::Worker(index) => {
                (format!("worker {index}"), COLOURS[index as usize % COLOURS.len()])
            }
        };
        if self.coloured { format!("\x1b[{colour}m{name} |\x1b[0m ") } else { format!("{name} | ") }
    }
}

/// Prints all lines of `from` until it ends. A stream that cannot be read any more has ended.
pub(crate) async fn pump(mut from: impl AsyncRead + Unpin, label: Label, printer: Printer) {
    let mut lines = Lines::default();
    let mut chunk = vec![0; READ_AT_ONCE];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        lines.push(&chunk[..count], |line| printer.print(label, line));
    }
    lines.finish(|line| printer.print(label, line));
}

/// Bytes in, lines out: no line is longer than `LONGEST_LINE`, and every line is text.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    fn push(&mut self, mut bytes: &[u8], mut print: impl FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.extend(&bytes[..end], &mut print);
            self.print_begun(&mut print);
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes, &mut print);
    }

    /// The last line may lack its newline.
    fn finish(mut self, mut print: impl FnMut(&str)) {
        if !self.begun.is_empty() {
            self.print_begun(&mut print);
        }
    }

    fn extend(&mut self, bytes: &[u8], print: &mut impl FnMut(&str)) {
        self.begun.extend_from_slice(bytes);
        while self.begun.len() > LONGEST_LINE {
            let rest = self.begun.split_off(cut_at(&self.begun));
            self.print_begun(print);
            self.begun = rest;
        }
    }

    fn print_begun(&mut self, print: &mut impl FnMut(&str)) {
        let line = mem::take(&mut self.begun);
        print(&String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)));
    }
}

/// Where to cut a line that is too long: at the limit, or just before the character across it.
fn cut_at(line: &[u8]) -> usize {
    (LONGEST_LINE - CHAR_REST..=LONGEST_LINE)
        .rev()
        .find(|&cut| line[cut] & 0b1100_0000 != 0b1000_0000)
        .unwrap_or(LONGEST_LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the chunks and returns the lines.
    fn lines_of(chunks: &[&[u8]]) -> Vec<String> {
        let mut printed = Vec::new();
        let mut lines = Lines::default();
        for chunk in chunks {
            lines.push(chunk, |line| printed.push(line.to_owned()));
        }
        lines.finish(|line| printed.push(line.to_owned()));
        printed
    }

    #[test]
    fn lines_are_whole_however_the_bytes_are_cut() {
        assert_eq!(lines_of(&[b"on", b"e\ntwo\n\nth", b"ree"]), ["one", "two", "", "three"]);
    }

    #[test]
    fn the_carriage_return_of_a_line_end_is_dropped() {
        assert_eq!(lines_of(&[b"one\r", b"\ntwo\r\n"]), ["one", "two"]);
    }

    #[test]
    fn a_line_that_is_too_long_comes_in_pieces_and_loses_nothing() {
        let long = "x".repeat(2 * LONGEST_LINE + 5);
        let pieces = lines_of(&[long.as_bytes(), b"\nnext\n"]);
        let lengths: Vec<_> = pieces.iter().map(String::len).collect();
        assert_eq!(lengths, [LONGEST_LINE, LONGEST_LINE, 5, 4]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_stays_whole() {
        let long = "x".repeat(LONGEST_LINE);
        assert_eq!(lines_of(&[long.as_bytes(), b"\n"]), [long]);
    }

    #[test]
    fn a_cut_does_not_break_a_character() {
        let long = format!("{}€€", "x".repeat(LONGEST_LINE - 1));
        let pieces = lines_of(&[long.as_bytes()]);
        assert_eq!(pieces.concat(), long);
        assert_eq!(pieces[1], "€€");
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(lines_of(&[b"a\xff\xfeb\n"]), ["a\u{fffd}\u{fffd}b"]);
        let noise = vec![0x80; 2 * LONGEST_LINE];
        assert_eq!(lines_of(&[&noise]).len(), 2);
    }

    #[test]
    fn the_prefix_is_coloured_only_on_request() {
        let mut printer = Printer::memory().0;
        assert_eq!(printer.prefix(Label::Worker(10)), "worker 10 | ");
        assert_eq!(printer.prefix(Label::Build), "build | ");
        printer.coloured = true;
        assert_eq!(printer.prefix(Label::Worker(1)), "\x1b[33mworker 1 |\x1b[0m ");
    }
}
