//! Which fault comes when and where: a function of the seed.

use anyhow::ensure;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::kind::Kind;

/// Apart from the workload's stream of numbers, which has the seed itself.
const STREAM: u64 = 0x000F_A017;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    pub(crate) kind: Kind,
    /// Which of several programs of the kind.
    pub(crate) draw: usize,
}

/// Decks of every possible fault, each shuffled, one after the other: none is left out and none comes much more often.
///
/// # Errors
/// A name in `only` that no possible fault has.
pub(crate) fn schedule(
    faults: usize,
    seed: u64,
    possible: &[Kind],
    only: &[String],
) -> anyhow::Result<Vec<Planned>> {
    let names: Vec<&str> = possible.iter().map(|kind| kind.name).collect();
    for name in only {
        ensure!(
            names.contains(&name.as_str()),
            "--only must name faults of {names:?} (got {name:?})"
        );
    }
    let is_wanted = |kind: &&Kind| only.is_empty() || only.iter().any(|name| name == kind.name);
    let deck: Vec<Kind> = possible.iter().filter(is_wanted).copied().collect();
    let mut random = StdRng::seed_from_u64(seed ^ STREAM);
    let mut planned = Vec::new();
    while planned.len() < faults {
        let mut shuffled = deck.clone();
        shuffled.shuffle(&mut random);
        let left = faults - planned.len();
        planned.extend(shuffled.into_iter().take(left).map(|kind| Planned {
            kind,
            draw: random.random_range(0..usize::from(u16::MAX)),
        }));
    }
    Ok(planned)
}

#[cfg(test)]
mod tests {
    use super::super::kind::Means;
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults_and_no_kind_is_left_out() {
        let possible = Kind::possible(Means::ALL);
        let names = |seed| {
            let planned = schedule(2 * possible.len(), seed, &possible, &[]).unwrap();
            planned
                .iter()
                .map(|planned| planned.kind.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(1), names(1));
        assert_ne!(names(1), names(2));
        for kind in &possible {
            let times = names(1).iter().filter(|name| **name == kind.name).count();
            assert_eq!(times, 2, "{}", kind.name);
        }
    }

    #[test]
    fn an_unknown_kind_is_refused_by_name() {
        let means = Means {
            has_namespaces: false,
            ..Means::ALL
        };
        let refused = schedule(1, 1, &Kind::possible(means), &["F5 node deaf".into()]);
        assert!(refused.unwrap_err().to_string().contains("F5 node deaf"));
    }
}
