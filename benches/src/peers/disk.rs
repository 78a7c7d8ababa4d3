//! How fast the disk syncs at this moment: what every durable queue stands on, and what drifts most.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

const FOR: Duration = Duration::from_secs(1);
/// A page of PostgreSQL's log, written over and over, as `pg_test_fsync` does.
const BLOCK: [u8; 8192] = [0x5a; 8192];

/// Calls of `fdatasync` a second, each after a write of 8 KiB in place, by one thread.
pub(super) fn syncs_per_s(folder: &Path) -> Result<f64> {
    let path = folder.join("sync-test");
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)?;
    file.write_all_at(&BLOCK, 0)?;
    file.sync_all()?;
    let (start, mut calls) = (Instant::now(), 0_u32);
    while start.elapsed() < FOR {
        file.write_all_at(&BLOCK, 0)?;
        file.sync_data()?;
        calls += 1;
    }
    let rate = f64::from(calls) / start.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(rate)
}
