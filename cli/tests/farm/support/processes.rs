//! What a command has started, as the system sees it.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::unistd::Pid;

use super::within;

/// Every process below `pid` at this moment.
pub(crate) fn descendants(pid: Pid) -> BTreeSet<Pid> {
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; state and parent follow it.
        stat.rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()
    };
    let all: Vec<(i32, i32)> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent_of(pid)?)))
        .collect();
    let mut found = BTreeSet::from([pid.as_raw()]);
    loop {
        let more: Vec<i32> = all
            .iter()
            .filter(|(child, parent)| found.contains(parent) && !found.contains(child))
            .map(|(child, _)| *child)
            .collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    found.remove(&pid.as_raw());
    found.into_iter().map(Pid::from_raw).collect()
}

pub(crate) fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest.trim_start());
    // A zombie has ended; its new parent may take a moment to notice.
    !state.is_empty() && !state.starts_with('Z')
}

/// Waits for the end of every one of them.
pub(crate) async fn all_end(pids: &BTreeSet<Pid>) {
    let gone = async {
        while pids.iter().any(|pid| runs(*pid)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("every process has ended", gone).await;
}
