//! Nothing grows without bound while everything goes wrong.

use std::collections::BTreeMap;

use super::Check;
use crate::watch::Most;

/// Programs keep no clip in memory, and each part its own bounds; the rest is libraries, a node's libtorch above all.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// What a process may have open unless it is told otherwise.
const OPEN_FILES_MAX: u64 = 1_024;

pub(super) fn bounds_held(usage: &BTreeMap<String, Most>) -> Check {
    let mut check = Check::new("bounds_held");
    for (program, most) in usage {
        let holds = most.memory_bytes <= MEMORY_BYTES_MAX && most.open_files <= OPEN_FILES_MAX;
        check.look(holds, || format!("{program} used {most:?}"));
    }
    check
}
