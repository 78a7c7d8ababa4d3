use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use super::case::Case;
use crate::child::{finish, reported};

/// The engine's own setting (`keep_freed_memory`), by glibc's variables.
const KEEP_FREED_MEMORY: [(&str, &str); 2] = [
    ("MALLOC_MMAP_THRESHOLD_", "100663296"),
    ("MALLOC_TRIM_THRESHOLD_", "2147483647"),
];

/// Whose program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Side {
    Flowai,
    /// With a preview after every step.
    FlowaiWithPreviews,
    /// As a user installs it and its documentation runs it.
    Diffusers,
    /// With the engine's memory layout and allocator settings.
    TunedDiffusers,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flowai => "flowai",
            Self::FlowaiWithPreviews => "flowai_with_previews",
            Self::Diffusers => "diffusers",
            Self::TunedDiffusers => "tuned_diffusers",
        })
    }
}

/// A program with the arguments that come before the job's.
pub(crate) struct Program {
    pub(crate) side: Side,
    program: PathBuf,
    arguments: Vec<PathBuf>,
}

/// What a process said of itself in its last line, of what is compared here. Other fields are the reader's pleasure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Reported {
    /// From "the model is loaded" to "the frames are in memory".
    pub(crate) render_s: f64,
    pub(crate) render_cpu_s: f64,
    pub(crate) steps_s: Vec<f64>,
    pub(crate) start_to_first_step_s: f64,
    pub(crate) peak_memory_bytes: u64,
    /// Of a run with previews.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previews_s: Option<Vec<f64>>,
}

/// One run of one program.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    #[serde(flatten)]
    pub(crate) reported: Reported,
    /// The whole process, as its parent sees it.
    pub(crate) process_s: f64,
    /// User and system time of the whole process.
    pub(crate) process_cpu_s: f64,
    /// The machine's load before the run.
    pub(crate) load_before: f64,
}

impl Program {
    pub(crate) fn new(side: Side, program: &Path, arguments: &[&PathBuf]) -> Result<Self> {
        let arguments = arguments.iter().map(|&path| path.clone()).collect();
        ensure!(
            program.is_file(),
            "{} is missing: run `make bench` in the checkout",
            program.display()
        );
        Ok(Self {
            side,
            program: program.to_owned(),
            arguments,
        })
    }

    /// Renders the case's job. Errors: the program fails, or does not end with its line of figures.
    pub(crate) fn run(&self, case: &Case) -> Result<Run> {
        let mut command = self.command();
        match self.side {
            Side::Flowai => command.arg("animate"),
            Side::FlowaiWithPreviews => command
                .arg("animate")
                .arg("--previews")
                .arg(case.previews()),
            Side::Diffusers => command.env("HF_HUB_OFFLINE", "1"),
            Side::TunedDiffusers => command
                .arg("--tuned")
                .env("HF_HUB_OFFLINE", "1")
                .envs(KEEP_FREED_MEMORY),
        };
        command
            .args([OsStr::new("--model"), case.model().as_os_str()])
            .args([OsStr::new("--image"), case.image().as_os_str()])
            .args([OsStr::new("--spec"), case.spec_file().as_os_str()])
            .args([OsStr::new("--out"), case.frames(self.side).as_os_str()]);

        // One child at a time, so the difference is the child's.
        let cpu_before = children_cpu_s()?;
        let started = Instant::now();
        let output = finish(command)?;
        Ok(Run {
            process_s: started.elapsed().as_secs_f64(),
            process_cpu_s: children_cpu_s()? - cpu_before,
            reported: reported(&output)?,
            load_before: 0.0,
        })
    }

    /// What `arguments` print, trimmed.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        let output = finish(command)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

impl Run {
    pub(crate) fn under(self, load_before: f64) -> Self {
        Self {
            load_before,
            ..self
        }
    }
}

/// User and system time of all children that were waited for.
fn children_cpu_s() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
