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

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn what_grew_beyond_its_bound_is_found() {
        let within = Most {
            memory_bytes: MEMORY_BYTES_MAX,
            open_files: OPEN_FILES_MAX,
            looks: 1,
        };
        let verdict = |most| bounds_held(&BTreeMap::from([("api-1".to_owned(), most)])).verdict;
        assert_eq!(verdict(within), Verdict::Holds);
        let grown = |change: fn(&mut Most)| {
            let mut most = within;
            change(&mut most);
            most
        };
        assert_eq!(
            verdict(grown(|most| most.memory_bytes += 1)),
            Verdict::Broken
        );
        assert_eq!(verdict(grown(|most| most.open_files += 1)), Verdict::Broken);
    }
}
