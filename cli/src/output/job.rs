//! A job as it goes.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::{Output, Style, duration_text, position_text};
use crate::client::{Position, Progress, Status, Update, Video};

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
    pub(super) fn new(output: Output) -> Self {
        let target = match (output.style, output.is_terminal) {
            (Style::Human, true) => ProgressDrawTarget::stderr(),
            (Style::Human, false) | (Style::Json | Style::Quiet, _) => ProgressDrawTarget::hidden(),
        };
        // Until the steps are known; a bar of length 0 is drawn as full.
        let bar = ProgressBar::with_draw_target(Some(1), target).with_style(bar_style());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            output,
            bar,
            said: String::new(),
        }
    }

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

fn bar_style() -> ProgressStyle {
    // The template is fixed and known to be good; the default one stands in if it ever were not.
    ProgressStyle::with_template("{spinner} {prefix} [{bar:30}] {msg}")
        .map(|style| style.progress_chars("=> "))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
