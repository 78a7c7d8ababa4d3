//! What a figure was measured on.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

/// As Linux describes it.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// What is checked out in the current folder, with `-dirty` where files were changed since; `None` outside of a repository.
    pub(crate) commit: Option<String>,
}

impl Machine {
    pub(crate) fn read() -> Result<Self> {
        let kibibytes = field(&read("/proc/meminfo")?, "MemTotal")
            .and_then(|value| value.strip_suffix("kB")?.trim().parse::<u64>().ok())
            .context("/proc/meminfo: has no MemTotal")?;
        let cpu = field(&read("/proc/cpuinfo")?, "model name");
        Ok(Self {
            cpu: cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            memory_bytes: kibibytes * 1024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            commit: commit(),
        })
    }
}

/// Mean number of programs that ran or wanted to, over the last minute.
pub(crate) fn load() -> Result<f64> {
    let text = read("/proc/loadavg")?;
    let first = text.split_whitespace().next();
    first
        .and_then(|load| load.parse().ok())
        .context("/proc/loadavg: does not start with a number")
}

fn commit() -> Option<String> {
    let described = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=9"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let described = String::from_utf8(described.stdout).ok()?;
    Some(described.trim().to_owned())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.to_owned())
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.into_iter().find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}
