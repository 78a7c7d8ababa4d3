//! What the command says, and where: results on standard output, everything on the way on standard error.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::client::{Position, Progress, StartsIn, Status, Update, Video};

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
            eprintln!("{text}");
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
        let target = match (self.style, self.is_terminal) {
            (Style::Human, true) => ProgressDrawTarget::stderr(),
            (Style::Human, false) | (Style::Json | Style::Quiet, _) => ProgressDrawTarget::hidden(),
        };
        // Until the steps are known; a bar of length 0 is drawn as full.
        let bar = ProgressBar::with_draw_target(Some(1), target).with_style(bar_style());
        bar.enable_steady_tick(Duration::from_millis(200));
        JobDisplay {
            output: *self,
            bar,
            said: String::new(),
        }
    }
}

fn bar_style() -> ProgressStyle {
    // The template is fixed and known to be good; the default one stands in if it ever were not.
    ProgressStyle::with_template("{spinner} {prefix} [{bar:30}] {msg}")
        .map(|style| style.progress_chars("=> "))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
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

/// A job on its way: a bar on a terminal, a line at each change elsewhere, each update as an object for programs.
#[derive(Debug)]
pub struct JobDisplay {
    output: Output,
    bar: ProgressBar,
    /// The last line, so that it is not said twice.
    said: String,
}

/// An update as programs read it.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Object<'a> {
    Video { video: &'a Video },
    Progress(&'a Progress),
    Position(&'a Position),
    Reconnecting,
}

impl JobDisplay {
    pub fn show(&mut self, update: &Update) {
        self.output.object(&match update {
            Update::Video(video) => Object::Video { video },
            Update::Progress(progress) => Object::Progress(progress),
            Update::Position(position) => Object::Position(position),
            Update::Reconnecting => Object::Reconnecting,
        });
        match update {
            Update::Video(video) => self.show_state(video),
            Update::Progress(progress) => {
                self.bar.set_length(u64::from(progress.steps));
                self.bar.set_position(u64::from(progress.step));
                self.bar.set_message(progress_text(progress));
                self.bar.set_prefix(progress.phase.clone());
                self.say(progress.phase.clone());
            }
            Update::Position(position) => {
                let text = position_text(
                    Some(position.position),
                    &position.reason,
                    position.starts_in,
                );
                self.bar.set_prefix("queued");
                self.bar.set_message(text.clone());
                self.say(text);
            }
            Update::Reconnecting => {
                let text = "the connection is gone, trying again";
                self.bar.set_message(text);
                self.say(text.to_owned());
            }
        }
    }

    fn show_state(&mut self, video: &Video) {
        let text = state_text(video.status, video.attempt);
        // The bar is drawn at any moment: nothing of the state before may stand behind the new one's name.
        self.bar.set_message("");
        if matches!(video.status, Status::Queued | Status::Running) {
            self.bar.set_position(0);
        }
        self.bar.set_prefix(text.clone());
        self.say(text);
    }

    /// On a terminal the bar says it.
    fn say(&mut self, line: String) {
        if self.bar.is_hidden() && line != self.said {
            self.output.note(&line);
            self.said = line;
        }
    }
}

impl Drop for JobDisplay {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn state_text(status: Status, attempt: u32) -> String {
    match status {
        Status::Running if attempt > 1 => format!("running again, attempt {attempt}"),
        _ => status.as_str().to_owned(),
    }
}

fn progress_text(progress: &Progress) -> String {
    let attempt = match progress.attempt {
        0 | 1 => String::new(),
        again => format!("attempt {again}, "),
    };
    let step = format!("{attempt}step {} of {}", progress.step, progress.steps);
    match progress.left_s {
        Some(left) if left >= 0.5 => format!("{step}, about {} left", duration_text(left)),
        Some(_) | None => step,
    }
}

/// Where a job stands in the queue, why it waits, and when it will probably start.
pub fn position_text(position: Option<u32>, reason: &str, starts_in: Option<StartsIn>) -> String {
    let place = match position {
        Some(0 | 1) => "next".to_owned(),
        Some(position) => format!("number {position} in the queue"),
        None => "in the queue".to_owned(),
    };
    let why = match reason {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    let when = match starts_in {
        Some(StartsIn { p90_s, .. }) if p90_s < 2.0 => "; starts at once".to_owned(),
        Some(StartsIn { p50_s, p90_s }) if p50_s < 1.0 => format!(
            "; starts in a moment, most likely within {}",
            duration_text(p90_s)
        ),
        Some(StartsIn { p50_s, p90_s }) => format!(
            "; starts in about {}, most likely within {}",
            duration_text(p50_s),
            duration_text(p90_s)
        ),
        None => String::new(),
    };
    format!("{place}{why}{when}")
}

/// Seconds as people say them: `7 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration_text(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, min, s) => format!("{min} min {s} s"),
        (h, min, _) => format!("{h} h {min} min"),
    }
}

/// Rows under a header, in columns as wide as their widest cell.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let lines = || std::iter::once(&header).chain(rows);
    let widths: [usize; N] = std::array::from_fn(|column| {
        lines()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    });
    let text: Vec<String> = lines()
        .map(|row| {
            let cells = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect();
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        for (seconds, text) in [
            (-1.0, "0 s"),
            (7.4, "7 s"),
            (59.6, "1 min 0 s"),
            (200.0, "3 min 20 s"),
            (7_500.0, "2 h 5 min"),
        ] {
            assert_eq!(duration_text(seconds), text);
        }
    }

    /// A node that is lost takes its steps along: whoever watches the bar jump back reads why.
    #[test]
    fn another_attempt_is_said() {
        assert_eq!(state_text(Status::Running, 1), "running");
        assert_eq!(state_text(Status::Running, 2), "running again, attempt 2");
        assert_eq!(state_text(Status::Done, 2), "done");
    }

    #[test]
    fn progress_says_step_and_time_left() {
        let check = |attempt: u32, left_s: Option<f64>, expected: &str| {
            let progress = Progress {
                attempt,
                phase: "denoising".to_owned(),
                step: 3,
                steps: 25,
                left_s,
            };
            assert_eq!(progress_text(&progress), expected);
        };
        check(1, None, "step 3 of 25");
        check(1, Some(0.1), "step 3 of 25");
        check(1, Some(41.0), "step 3 of 25, about 41 s left");
        check(2, Some(41.0), "attempt 2, step 3 of 25, about 41 s left");
    }

    #[test]
    fn a_place_in_the_queue_comes_with_its_reason() {
        assert_eq!(position_text(Some(1), "", None), "next");
        assert_eq!(
            position_text(Some(3), "two of yours run", None),
            "number 3 in the queue: two of yours run"
        );
        let starts_in = Some(StartsIn {
            p50_s: 70.0,
            p90_s: 130.0,
        });
        assert_eq!(
            position_text(None, "others are ahead", starts_in),
            "in the queue: others are ahead; starts in about 1 min 10 s, most likely within 2 min 10 s"
        );
        let at_once = Some(StartsIn {
            p50_s: 0.3,
            p90_s: 3.0,
        });
        assert_eq!(
            position_text(Some(1), "", at_once),
            "next; starts in a moment, most likely within 3 s"
        );
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".to_owned(), "running".to_owned()],
            ["long".to_owned(), String::new()],
        ];
        assert_eq!(
            table(["ID", "STATUS"], &rows),
            "ID    STATUS\na     running\nlong"
        );
    }
}
