//! What comparisons of the full size cost, and the most that they may.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

const MEMORY_BYTES_MAX: u64 = 24 << 30;

pub(crate) fn report(side: &str, started: Instant, peak_bytes: u64) -> Result<()> {
    println!(
        "{side}: {:.1} s, at most {:.2} GB of memory",
        started.elapsed().as_secs_f64(),
        peak_bytes as f64 / 1e9,
    );
    ensure!(
        peak_bytes <= MEMORY_BYTES_MAX,
        "{side} took more than 24 GiB of memory"
    );
    Ok(())
}

pub(crate) fn peak_bytes() -> Result<u64> {
    let status = fs::read_to_string(Path::new("/proc/self/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: u64 = line
        .and_then(|line| line.trim().strip_suffix("kB"))
        .context("/proc/self/status has no VmHWM")?
        .trim()
        .parse()?;
    Ok(kibibytes * 1024)
}

/// Of the largest child that has ended.
#[allow(unsafe_code, reason = "getrusage has no safe wrapper in std")]
pub(crate) fn peak_of_children_bytes() -> u64 {
    // SAFETY: plain numbers, all zero is a value of them, and the call writes them whole.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) };
    usage.ru_maxrss.unsigned_abs() * 1024
}
