//! What a run cost, as one JSON line.

use std::fs;
use std::time::Duration;

use serde::Serialize;

use crate::adapter::Applied;

/// Seconds of wall time for each stage, and the memory of the whole process.
#[derive(Default, Serialize)]
pub(crate) struct Measurements {
    pub(crate) load_s: f64,
    /// Reading, checking and fusing all adapters.
    pub(crate) adapters_s: f64,
    /// Reading a keyframe's texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) clip_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vae_encode_s: Option<f64>,
    pub(crate) steps_s: Vec<f64>,
    /// Fitting the map of the previews, once a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) preview_fit_s: Option<f64>,
    /// Guessing the clip after each step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) previews_s: Option<Vec<f64>>,
    pub(crate) decode_s: f64,
    /// From the model being loaded to all frames being in memory.
    pub(crate) render_s: f64,
    /// User and system time of all threads over the same stretch.
    pub(crate) render_cpu_s: f64,
    /// From the start of the process to the beginning of the first step.
    pub(crate) start_to_first_step_s: Option<f64>,
    /// From the start of the process to now.
    pub(crate) total_s: Option<f64>,
    pub(crate) peak_memory_bytes: Option<u64>,
    /// Of tensors on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peak_device_memory_bytes: Option<u64>,
    pub(crate) adapters: Vec<Applied>,
}

impl Measurements {
    /// Writes the line to stderr, with the total and the memory as they are now.
    pub(crate) fn report(mut self) {
        self.total_s = since_process_start();
        self.peak_memory_bytes = peak_memory_bytes();
        if let Ok(line) = serde_json::to_string(&self) {
            eprintln!("{line}");
        }
    }
}

pub(crate) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// User and system time of all threads of this process, in seconds.
#[allow(
    unsafe_code,
    reason = "clock_gettime has no safe wrapper in std for this clock"
)]
pub(crate) fn cpu_seconds() -> f64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec, which is there. Without such a clock it stays zero.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Seconds since the system started this process, exact to its clock tick of 10 ms. `None` without a Linux `/proc`.
pub(crate) fn since_process_start() -> Option<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name and may hold spaces; it ends at the last parenthesis.
    let after_name = stat.rsplit_once(')')?.1;
    let start_ticks: f64 = after_name.split_whitespace().nth(19)?.parse().ok()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Some((uptime * TICKS_PER_SECOND - start_ticks).round() / TICKS_PER_SECOND)
}

/// The most memory the process ever had resident.
fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The middle one, of an even number the mean of the middle two; no number of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The median and the range in milliseconds, of figures in seconds; of one figure itself.
pub(crate) fn milliseconds(figures_s: &[f64]) -> String {
    let middle = 1e3 * median(figures_s);
    if figures_s.len() < 2 {
        return format!("{middle:.1} ms");
    }
    let low = figures_s.iter().copied().fold(f64::INFINITY, f64::min);
    let high = figures_s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{middle:.1} ms ({:.1} to {:.1})", 1e3 * low, 1e3 * high)
}
