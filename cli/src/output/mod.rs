//! What the command says, and where: results on standard output, everything on the way on standard error.

mod job;
mod table;
mod words;

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;

pub use job::JobDisplay;
pub use table::table;
pub use words::{duration_text, position_text};

/// How the command speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For people: tables, and bars when standard error is a terminal.
    Human,
    /// For programs: one JSON object a line on standard output, and nothing else there.
    Json,
    /// Only the result.
    Quiet,
}

/// The command's voice.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub style: Style,
    is_terminal: bool,
}

impl Output {
    pub fn new(style: Style) -> Self {
        Self {
            style,
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// A result for people; programs get theirs by [`Self::object`].
    pub fn line(&self, text: impl std::fmt::Display) {
        if self.style != Style::Json {
            print(&text.to_string());
        }
    }

    /// A result for programs.
    pub fn object(&self, value: &impl Serialize) {
        if self.style == Style::Json {
            match serde_json::to_string(value) {
                Ok(line) => print(&line),
                Err(error) => tracing::error!(%error, "a result cannot be written as JSON"),
            }
        }
    }

    /// A remark for people.
    pub fn note(&self, text: impl std::fmt::Display) {
        if self.style == Style::Human {
            say(text);
        }
    }

    /// Something that takes a while. Its bar goes away when the value is dropped.
    pub fn working(&self, on: &str) -> Spinner {
        let bar = if self.style == Style::Human && self.is_terminal {
            let bar = ProgressBar::new_spinner().with_message(on.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        } else {
            self.note(on);
            ProgressBar::hidden()
        };
        Spinner { bar }
    }

    /// A job to be shown as it goes.
    pub fn job(&self) -> JobDisplay {
        JobDisplay::new(*self)
    }
}

/// The first result that could not be written.
static NOT_WRITTEN: OnceLock<std::io::Error> = OnceLock::new();

/// Writes a line to standard output. A reader that went away (`flowai jobs | head`) is no error worth a message; any other is
/// kept for [`not_written`].
pub fn print(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        let _ = NOT_WRITTEN.set(error);
    }
}

/// Writes a line to standard error. Whether anybody reads it changes nothing: a farm is stopped in order also when what its words were
/// piped to ended first.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Why a result did not come to standard output, when one did not.
pub fn not_written() -> Option<&'static std::io::Error> {
    NOT_WRITTEN.get()
}

/// A bar without an end.
#[derive(Debug)]
pub struct Spinner {
    bar: ProgressBar,
}

impl Spinner {
    /// Says what is being done now.
    pub fn now(&self, on: &str) {
        self.bar.set_message(on.to_owned());
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
