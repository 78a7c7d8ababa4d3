//! What the contenders wrote, joined by somebody who trusts neither side: which acknowledged jobs began, when, and how often.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::statistics::Percentiles;

/// An acknowledged job; nanoseconds of the monotonic clock.
struct Ack {
    key: String,
    begin: i64,
    acknowledged: i64,
}

/// Of one run in which jobs were submitted.
#[derive(Debug, Serialize)]
pub(super) struct Lives {
    pub(super) acknowledged: usize,
    /// Acknowledged jobs that never began.
    pub(super) missing: usize,
    /// Acknowledged jobs that began more than once.
    pub(super) doubled: usize,
    /// Acknowledged over the time of the submissions.
    pub(super) enqueues_per_s: f64,
    /// Acknowledged over the time from the first submission to the last start.
    pub(super) lives_per_s: f64,
    pub(super) ack_ms: Percentiles,
    pub(super) start_ms: Percentiles,
}

/// How many jobs have begun, of which only what was written since the last look is read: whoever looks takes cores that are
/// measured.
#[derive(Default)]
pub(super) struct Starts {
    file: Option<File>,
    count: usize,
}

impl Starts {
    pub(super) fn count(&mut self, path: &Path) -> usize {
        self.file = self.file.take().or_else(|| File::open(path).ok());
        let mut new = Vec::new();
        if let Some(file) = &mut self.file
            && file.read_to_end(&mut new).is_ok()
        {
            self.count += new.iter().filter(|byte| **byte == b'\n').count();
        }
        self.count
    }
}

/// When each job began, in order.
pub(super) fn starts(path: &Path) -> Result<Vec<(String, i64)>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = |line: &str| {
        let (key, at) = line.split_once(' ')?;
        Some((key.to_owned(), at.parse().ok()?))
    };
    text.lines()
        .map(|text| line(text).with_context(|| format!("a start is {text:?}")))
        .collect()
}

fn acks(path: &Path) -> Result<Vec<Ack>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let line = |line: &str| {
        let mut words = line.split(' ');
        Some(Ack {
            key: words.next()?.to_owned(),
            begin: words.next()?.parse().ok()?,
            acknowledged: words.next()?.parse().ok()?,
        })
    };
    text.lines()
        .map(|text| line(text).with_context(|| format!("an acknowledgement is {text:?}")))
        .collect()
}

/// How many jobs were acknowledged.
pub(super) fn acknowledged(path: &Path) -> Result<usize> {
    Ok(acks(path)?.len())
}

/// `cold`: so many of the first jobs count as lives, but not in times to acknowledgement and start.
pub(super) fn join(acks_path: &Path, starts_path: &Path, cold: usize) -> Result<Lives> {
    let mut acks = acks(acks_path)?;
    acks.sort_by_key(|ack| ack.begin);
    let mut begun: HashMap<String, (i64, usize)> = HashMap::new();
    for (key, at) in starts(starts_path)? {
        let (first, times) = begun.entry(key).or_insert((at, 0));
        *first = at.min(*first);
        *times += 1;
    }
    let first = acks
        .iter()
        .map(|ack| ack.begin)
        .min()
        .context("nothing was acknowledged")?;
    let last_ack = acks
        .iter()
        .map(|ack| ack.acknowledged)
        .max()
        .unwrap_or(first);
    let found_of = |acks: &'_ [Ack]| -> Vec<(i64, (i64, usize))> {
        let found = acks
            .iter()
            .filter_map(|ack| Some((ack.begin, *begun.get(&ack.key)?)));
        found.collect()
    };
    let found = found_of(&acks);
    let warm = acks.get(cold..).unwrap_or_default();
    let last_start = found.iter().map(|(_, (at, _))| *at).max();
    let last_start = last_start.unwrap_or(last_ack);
    let ms = |from: i64, to: i64| (to - from) as f64 / 1e6;
    let per_s = |until: i64| acks.len() as f64 * 1e3 / ms(first, until).max(f64::MIN_POSITIVE);
    Ok(Lives {
        acknowledged: acks.len(),
        missing: acks.len() - found.len(),
        doubled: found.iter().filter(|(_, (_, times))| *times > 1).count(),
        enqueues_per_s: per_s(last_ack),
        lives_per_s: per_s(last_start.max(last_ack)),
        ack_ms: Percentiles::of(
            warm.iter()
                .map(|ack| ms(ack.begin, ack.acknowledged))
                .collect(),
        )
        .context("nothing was acknowledged")?,
        start_ms: Percentiles::of(
            found_of(warm)
                .into_iter()
                .map(|(begin, (at, _))| ms(begin, at))
                .collect(),
        )
        .context("no acknowledged job began")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_counted_as_they_come() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("starts");
        let mut starts = Starts::default();
        assert_eq!(starts.count(&path), 0);
        let mut file = File::create(&path).unwrap();
        for (written, count) in [("a 1\nb 2\n", 2), ("c", 2), (" 3\nd 4\n", 4)] {
            std::io::Write::write_all(&mut file, written.as_bytes()).unwrap();
            assert_eq!(starts.count(&path), count);
        }
    }

    #[test]
    fn a_job_that_never_began_and_one_that_began_twice_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (acks, starts) = (folder.path().join("acks"), folder.path().join("starts"));
        fs::write(&acks, "a 0 1000000\nb 0 2000000\nc 1000000 3000000\n").unwrap();
        fs::write(&starts, "a 5000000\nc 4000000\nunknown 1\nc 9000000\n").unwrap();
        let lives = join(&acks, &starts, 0).unwrap();
        assert_eq!(
            (lives.acknowledged, lives.missing, lives.doubled),
            (3, 1, 1)
        );
        assert_eq!((lives.lives_per_s, lives.enqueues_per_s), (600.0, 1000.0));
        assert_eq!(
            (lives.start_ms.p50, lives.start_ms.max, lives.ack_ms.max),
            (3.0, 5.0, 2.0)
        );
        let warm = join(&acks, &starts, 1).unwrap();
        assert_eq!((warm.acknowledged, warm.start_ms.max), (3, 3.0));
    }
}
