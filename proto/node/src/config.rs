//! Flags and their environment variables: parsing that gathers every mistake before it gives up.
//!
//! Arguments are declared to clap as plain text and checked here, because clap itself stops at the
//! first value that it cannot parse.

use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::exit;

/// Everything that is wrong with the flags, one sentence each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<String>);

impl Mistakes {
    /// Adds a sentence that says what to do.
    pub fn add(&mut self, sentence: impl Into<String>) {
        self.0.push(sentence.into());
    }

    /// The value, or a mistake that names the flag and what it was given.
    pub fn parse<T: FromStr<Err: Display>>(&mut self, flag: &str, text: &str) -> Option<T> {
        text.parse().map_err(|error| self.add(format!("{flag} {text:?}: {error}"))).ok()
    }

    /// A duration such as `10s`, `500ms`, `2m`; a bare number is seconds.
    pub fn duration(&mut self, flag: &str, text: &str) -> Option<Duration> {
        let parsed = match text.parse::<u32>() {
            Ok(seconds) => Some(Duration::from_secs(seconds.into())),
            Err(_) => humantime::parse_duration(text).ok(),
        };
        if parsed.is_none() {
            self.add(format!("{flag} {text:?}: give a duration such as 10s, 500ms or 2m"));
        }
        parsed
    }

    /// An address to listen on, `HOST:PORT`; port 0 takes a free one.
    pub fn listen(&mut self, flag: &str, text: &str) -> Option<String> {
        let valid = text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !valid {
            self.add(format!("{flag} {text:?}: give HOST:PORT, such as 127.0.0.1:8000"));
        }
        valid.then(|| text.to_owned())
    }

    /// The configuration if nothing is wrong, else all mistakes.
    pub fn into_result<T>(self, config: Option<T>) -> Result<T, Self> {
        match config {
            Some(config) if self.0.is_empty() => Ok(config),
            _ => Err(self),
        }
    }

    /// Prints all of them; the exit code for bad usage.
    pub fn report(&self, program: &str) -> ExitCode {
        for mistake in &self.0 {
            eprintln!("{program}: {mistake}");
        }
        eprintln!("{program}: see `{program} --help`");
        ExitCode::from(exit::USAGE)
    }

    /// The sentences.
    pub fn sentences(&self) -> &[String] {
        &self.0
    }
}

/// What the command line comes to.
#[derive(Debug)]
pub enum Parsed<A> {
    /// Arguments, still to be checked, with the mistakes found so far.
    Arguments(A, Mistakes),
    /// There is nothing to run: help or version was printed, or nothing could be made of it.
    Exit(ExitCode),
}

/// Parses a command line. Flags that do not exist are noted and passed over, so that the values of
/// the others are checked as well.
pub fn parse<A: clap::Parser>(args: impl IntoIterator<Item = OsString>) -> Parsed<A> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let mut mistakes = Mistakes::default();
    let command = A::command();
    loop {
        let error = match A::try_parse_from(&args) {
            Ok(arguments) => return Parsed::Arguments(arguments, mistakes),
            Err(error) => error,
        };
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            // Nothing can be done about a closed stdout.
            let _ = error.print();
            return Parsed::Exit(ExitCode::from(exit::CLEAN));
        }
        mistakes.add(sentence(&error, called(&command, &args)));
        if !drop_argument(&mut args, &error) {
            return Parsed::Exit(mistakes.report(command.get_name()));
        }
    }
}

/// The innermost subcommand that the arguments name.
fn called<'a>(command: &'a clap::Command, args: &[OsString]) -> &'a clap::Command {
    args.iter().skip(1).fold(command, |called, arg| called.find_subcommand(arg).unwrap_or(called))
}

/// What to do about one mistake: our own words where clap's tips mislead, else its first paragraph,
/// without its own heading, and its tip if it has one.
fn sentence(error: &clap::Error, command: &clap::Command) -> String {
    let given = error.get(ContextKind::InvalidArg);
    match (error.kind(), given) {
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, _) => {
            return "say what to do: a command is missing".to_owned();
        }
        (ErrorKind::UnknownArgument, Some(ContextValue::String(given))) => {
            return unknown(given, error, command);
        }
        _ => {}
    }
    let text = error.to_string();
    let mut paragraphs = text.split("\n\n");
    let first = paragraphs.next().unwrap_or(&text);
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let tip = paragraphs.next().filter(|paragraph| paragraph.trim_start().starts_with("tip:"));
    let words = first.split_whitespace().chain(tip.unwrap_or_default().split_whitespace());
    words.collect::<Vec<_>>().join(" ").replace(" tip:", "; tip:")
}

/// Of an argument that nothing takes. That it could be passed on after `--`, as clap says of flags
/// too, is the way only for the command of another program.
fn unknown(given: &str, error: &clap::Error, command: &clap::Command) -> String {
    if given.starts_with('-') {
        return match error.get(ContextKind::SuggestedArg) {
            Some(ContextValue::String(known)) if are_alike(given, known) => {
                format!("there is no flag '{given}'; did you mean '{known}'?")
            }
            _ => format!("there is no flag '{given}'; --help lists those there are"),
        };
    }
    let is_last = |argument: &&clap::Arg| argument.is_last_set();
    match command.get_positionals().find(is_last).and_then(|last| last.get_value_names()) {
        Some([name, ..]) => {
            let name = name.to_lowercase();
            format!("'{given}' is no flag; put the {name} after `--`, as in `-- {given}`")
        }
        _ => format!("'{given}' is no flag, and no value of one; leave it out"),
    }
}

/// Whether one may be the other, misspelt. Clap finds `--store` in `--worker`.
fn are_alike(given: &str, known: &str) -> bool {
    let [given, known] = [given, known].map(|flag| flag.trim_start_matches('-'));
    strsim::normalized_damerau_levenshtein(given, known) > 0.6
}

/// Removes the argument that clap does not know, or the flag that has no value; `false` when it is
/// another kind of error.
fn drop_argument(args: &mut Vec<OsString>, error: &clap::Error) -> bool {
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidArg) else { return false };
    // A flag that lacks its value is named with the value's form: `--listen <HOST:PORT>`.
    let name = name.split_whitespace().next().unwrap_or_default();
    let named = |arg: &OsString| {
        let arg = arg.to_string_lossy();
        arg == name || arg.split_once('=').is_some_and(|(flag, _)| flag == name)
    };
    let Some(at) = args.iter().skip(1).position(named) else { return false };
    let removed = args.remove(at + 1);
    let removed = removed.to_string_lossy();
    // `--wrong value`: the value belongs to the flag that is not there.
    let takes_value = error.kind() == ErrorKind::UnknownArgument
        && removed.starts_with('-')
        && !removed.contains('=');
    let is_value = |arg: &OsString| !arg.to_string_lossy().starts_with('-');
    if takes_value && args.get(at + 1).is_some_and(is_value) {
        args.remove(at + 1);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    #[command(name = "sample")]
    struct Args {
        #[arg(long, default_value = "1s")]
        wait: String,
        #[arg(long, default_value = "1")]
        count: String,
    }

    fn parse_line(line: &str) -> (Args, Mistakes) {
        match parse::<Args>(line.split(' ').map(OsString::from)) {
            Parsed::Arguments(args, mistakes) => (args, mistakes),
            Parsed::Exit(_) => panic!("{line} must give arguments"),
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let (args, mut mistakes) = parse_line("sample --wiat 3s --wait soon --x=1 --count many");
        mistakes.duration("--wait", &args.wait);
        mistakes.parse::<u32>("--count", &args.count);
        let text = mistakes.sentences().join("\n");
        for part in ["'--wiat'", "'--x'", "--wait \"soon\": give a duration", "--count \"many\""] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert_eq!(mistakes.sentences().len(), 4);
    }

    #[test]
    fn a_misspelt_flag_is_told_the_right_one() {
        let (_, mistakes) = parse_line("sample --cuont 3");
        assert_eq!(mistakes.sentences(), ["there is no flag '--cuont'; did you mean '--count'?"]);
    }

    #[derive(Debug, clap::Parser)]
    #[command(name = "sample")]
    enum Commands {
        Dev {
            #[arg(long, default_value = "3")]
            workers: String,
            #[arg(last = true, value_name = "WORKER COMMAND")]
            command: Vec<OsString>,
        },
    }

    #[test]
    fn what_belongs_after_two_dashes_is_told_so_and_a_flag_is_not() {
        let sentences = |line: &str| match parse::<Commands>(line.split(' ').map(OsString::from)) {
            Parsed::Arguments(Commands::Dev { workers, command }, mistakes) => {
                assert_eq!((workers.as_str(), command.len()), ("3", 0));
                mistakes.sentences().to_vec()
            }
            Parsed::Exit(_) => panic!("{line} must give arguments"),
        };
        let flag = "there is no flag '--worker'; did you mean '--workers'?";
        assert_eq!(sentences("sample dev --worker 2"), [flag]);
        let other = "there is no flag '--store'; --help lists those there are";
        assert_eq!(sentences("sample dev --store x"), [other]);
        let program = "'bin/app' is no flag; put the worker command after `--`, as in `-- bin/app`";
        assert_eq!(sentences("sample dev bin/app"), [program]);
    }

    #[test]
    fn a_flag_without_its_value_hides_no_other_mistake() {
        let (args, mut mistakes) = parse_line("sample --count --wait soon");
        mistakes.duration("--wait", &args.wait);
        let text = mistakes.sentences().join("\n");
        assert!(text.contains("--count") && text.contains("--wait"), "{text}");
    }

    #[test]
    fn a_bare_number_is_seconds() {
        let mut mistakes = Mistakes::default();
        assert_eq!(mistakes.duration("--wait", "5"), Some(Duration::from_secs(5)));
        assert_eq!(mistakes.duration("--wait", "250ms"), Some(Duration::from_millis(250)));
        assert_eq!(mistakes, Mistakes::default());
    }

    #[test]
    fn an_address_needs_host_and_port() {
        let mut mistakes = Mistakes::default();
        assert!(mistakes.listen("--listen", "localhost:0").is_some());
        for bad in ["8000", ":8000", "host:", "host:99999"] {
            assert!(mistakes.listen("--listen", bad).is_none(), "{bad}");
        }
    }
}
