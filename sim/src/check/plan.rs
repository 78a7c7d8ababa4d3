//! What a seed stands for: how large the farm is, what it is asked for, and what goes wrong when.

use std::collections::BTreeMap;

use flowai_actors::ids::{JobId, UserId};
use flowai_actors::limits::{JOB_ATTEMPTS_MAX, JOB_NO_PROGRESS_MS, NODE_QUARANTINE_MS};
use flowai_actors::state::{Class, Tier};
use rand::Rng;
use rand::rngs::StdRng;
use uuid::Uuid;

use super::store::id_of;
use super::{bad_node, overload};

/// Coordinators of every world.
pub(super) const COORDINATORS: usize = 3;
/// One of so many seeds asks for more than the farm can give, so that a start bound has to fire.
const OVERLOAD_EVERY: u64 = 40;
/// One of so many seeds has a node that fails, and nothing else does.
const BAD_NODE_EVERY: u64 = 40;

/// How a world is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Everything fails that can.
    Chaos,
    /// Nothing fails, and there is far too much work.
    Overload,
    /// [`BAD_NODE`](bad_node::BAD_NODE) makes this of every job that it is given, and nothing else fails.
    BadNode(Nature),
}

/// What comes of a job in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    Good,
    /// Fails on every node, by name.
    Bad,
    /// Fails now and then, in a way that may pass elsewhere.
    Flaky,
    /// Kills each process that renders it.
    Killer,
    /// Comes to no further step boundary.
    Hanging,
}

impl Nature {
    /// How long its tries keep a node from others, more than good ones do.
    const fn patience_ms(self) -> u64 {
        let tries = JOB_ATTEMPTS_MAX as u64;
        match self {
            Self::Good | Self::Bad | Self::Flaky => 0,
            Self::Killer => tries * 60_000,
            Self::Hanging => tries * (JOB_NO_PROGRESS_MS + 200_000),
        }
    }
}

/// Who is refused because as many of its jobs wait as may comes back later, when a lone node may have failed so much that it is
/// trusted only after a pause, and after one that is twice as long.
fn refusals_ms(wishes: &[Wish]) -> u64 {
    let mut of_owner: BTreeMap<UserId, u32> = BTreeMap::new();
    let is_refused = wishes.iter().any(|wish| {
        let count = of_owner.entry(wish.owner).or_default();
        *count += 1;
        *count > wish.tier.queued_max()
    });
    if is_refused {
        3 * NODE_QUARANTINE_MS
    } else {
        0
    }
}

/// A job that will be asked for.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) at_ms: u64,
    pub(super) job: JobId,
    pub(super) owner: UserId,
    pub(super) tier: Tier,
    pub(super) class: Class,
    /// The wish whose job it starts after, if that was accepted.
    pub(super) after: Option<usize>,
    pub(super) nature: Nature,
    pub(super) steps: u32,
    pub(super) step_ms: u64,
    /// How long after it was asked for its owner wants it no more.
    pub(super) cancel_after_ms: Option<u64>,
}

/// Something that goes wrong, for a while where it says so.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    KillCoordinator {
        index: usize,
        for_ms: u64,
    },
    /// It stands still with all that it believes, and goes on later as if nothing had been.
    FreezeCoordinator {
        index: usize,
        for_ms: u64,
    },
    CutFromStore {
        index: usize,
        for_ms: u64,
    },
    StoreRefuses {
        for_ms: u64,
    },
    ObjectsRefuse {
        for_ms: u64,
    },
    KillNode {
        node: usize,
        for_ms: u64,
    },
    FreezeNode {
        node: usize,
        for_ms: u64,
    },
    /// It stands still, is taken for dead and started anew, and then goes on beside its successor.
    ReplaceFrozenNode {
        node: usize,
        for_ms: u64,
    },
    /// Told to end in order; started again.
    CloseNode {
        node: usize,
    },
    CutNode {
        node: usize,
        up: bool,
        down: bool,
        for_ms: u64,
    },
    ResetLink {
        node: usize,
    },
    /// An api instance stands still in the middle of a transaction that has this user's rows locked.
    HoldRows {
        owner: UserId,
        for_ms: u64,
    },
}

/// Chances are in a thousand.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) nodes: usize,
    pub(super) wishes: Vec<Wish>,
    pub(super) faults: Vec<(u64, Fault)>,
    /// From then on nothing fails any more.
    pub(super) heal_ms: u64,
    /// By then every job has ended.
    pub(super) end_ms: u64,
    pub(super) message_lost: u32,
    pub(super) message_doubled: u32,
    /// Comes up to [`Plan::late_ms_max`] later than others: behind what was sent after it.
    pub(super) message_late: u32,
    pub(super) late_ms_max: u64,
    pub(super) delay_ms_max: u64,
    pub(super) doorbell_lost: u32,
    /// A statement that the database does not take.
    pub(super) statement_refused: u32,
    /// The connection breaks after the commit: it is written, and the writer does not know.
    pub(super) commit_unknown: u32,
    pub(super) upload_fails: u32,
    pub(super) drift_ppm_max: i64,
}

impl Plan {
    /// `nodes`: as many as wanted instead of as many as the seed says.
    pub(super) fn of(seed: u64, nodes: Option<usize>, rng: &mut StdRng) -> Self {
        if nodes.is_none() && seed % OVERLOAD_EVERY == OVERLOAD_EVERY - 1 {
            return overload::plan();
        }
        if nodes.is_none() && seed % BAD_NODE_EVERY == BAD_NODE_EVERY / 2 {
            return bad_node::plan(rng);
        }
        let nodes = nodes.unwrap_or_else(|| rng.random_range(1..=6));
        let heal_ms = rng.random_range(90_000..300_000);
        let users = (nodes / 2).max(1) + rng.random_range(0..3);
        let jobs = rng.random_range(3..=16).max(nodes * 2);
        let harm = rng.random_range(0..=10);
        let natures = Natures::of(rng);
        // A step may last longer than a node that is told to end has.
        let step_ms_max = [5_000, 5_000, 5_000, 150_000][rng.random_range(0..4)];
        let wishes: Vec<Wish> = (0..jobs)
            .map(|count| {
                let owner = rng.random_range(0..users);
                Wish {
                    at_ms: rng.random_range(1_000..heal_ms * 3 / 4),
                    job: JobId::from_uuid(Uuid::nil()),
                    owner: user(owner),
                    tier: Tier::ALL[owner % Tier::ALL.len()],
                    class: Class::ALL[rng.random_range(0..Class::ALL.len())],
                    after: (count > 0 && rng.random_range(0..8) == 0)
                        .then(|| rng.random_range(0..count)),
                    nature: natures.draw(rng),
                    steps: rng.random_range(1..=6),
                    step_ms: rng.random_range(200..step_ms_max),
                    cancel_after_ms: (rng.random_range(0..10) == 0)
                        .then(|| rng.random_range(10..40_000)),
                }
                .numbered(count as u64)
            })
            .collect();
        let faults = (0..rng.random_range(0..=4 + nodes.min(100)))
            .map(|_| fault(rng, nodes, users, heal_ms))
            .collect();
        let patience_ms: u64 = wishes.iter().map(|wish| wish.nature.patience_ms()).sum();
        // Each may be begun anew, on a node that another one has to leave first.
        let work_ms: u64 = wishes
            .iter()
            .map(|wish| u64::from(wish.steps) * wish.step_ms)
            .sum();
        let patience_ms = patience_ms + refusals_ms(&wishes) + 3 * work_ms;
        Self {
            kind: Kind::Chaos,
            nodes,
            faults,
            heal_ms,
            // Each user has two at a time, each job three tries and its pauses.
            end_ms: heal_ms + 900_000 + patience_ms + 120_000 * jobs as u64 / nodes as u64,
            message_lost: rng.random_range(0..=harm) * 10,
            message_doubled: rng.random_range(0..=harm) * 10,
            message_late: rng.random_range(0..=harm) * 3,
            late_ms_max: rng.random_range(100..30_000),
            delay_ms_max: rng.random_range(2..200),
            doorbell_lost: rng.random_range(0..=harm) * 60,
            statement_refused: rng.random_range(0..=harm) * 8,
            commit_unknown: rng.random_range(0..=harm) * 15,
            upload_fails: rng.random_range(0..=harm) * 20,
            drift_ppm_max: rng.random_range(0..=super::clock::DRIFT_PPM_MAX),
            wishes,
        }
    }

    /// No message is lost, nothing refused, and no clock wrong.
    pub(super) fn calm(kind: Kind, nodes: usize, wishes: Vec<Wish>, end_ms: u64) -> Self {
        let wishes = wishes.into_iter().enumerate();
        Self {
            kind,
            nodes,
            wishes: wishes
                .map(|(count, wish)| wish.numbered(count as u64))
                .collect(),
            faults: Vec::new(),
            heal_ms: 0,
            end_ms,
            message_lost: 0,
            message_doubled: 0,
            message_late: 0,
            late_ms_max: 0,
            delay_ms_max: 2,
            doorbell_lost: 0,
            statement_refused: 0,
            commit_unknown: 0,
            upload_fails: 0,
            drift_ppm_max: 0,
        }
    }
}

impl Wish {
    /// With an id of its own, made when it is asked for.
    pub(super) fn numbered(mut self, count: u64) -> Self {
        self.job = JobId::from_uuid(id_of(self.at_ms, count));
        self
    }
}

pub(super) fn user(number: usize) -> UserId {
    UserId::from_uuid(Uuid::from_u128(number as u128))
}

/// How many in a hundred jobs are of each kind.
struct Natures {
    bad: u32,
    flaky: u32,
    killer: u32,
    hanging: u32,
}

impl Natures {
    /// Most seeds have none of the worst: their worlds last long.
    fn of(rng: &mut StdRng) -> Self {
        Self {
            bad: rng.random_range(0..20),
            flaky: rng.random_range(0..20),
            killer: if rng.random_range(0..5) == 0 { 15 } else { 0 },
            hanging: if rng.random_range(0..12) == 0 { 8 } else { 0 },
        }
    }

    fn draw(&self, rng: &mut StdRng) -> Nature {
        let mut rest = rng.random_range(0..100);
        let shares = [
            (Nature::Bad, self.bad),
            (Nature::Flaky, self.flaky),
            (Nature::Killer, self.killer),
            (Nature::Hanging, self.hanging),
        ];
        for (nature, share) in shares {
            if rest < share {
                return nature;
            }
            rest -= share;
        }
        Nature::Good
    }
}

fn fault(rng: &mut StdRng, nodes: usize, users: usize, heal_ms: u64) -> (u64, Fault) {
    let at_ms = rng.random_range(2_000..heal_ms);
    let for_ms = match rng.random_range(0..3) {
        0 => rng.random_range(100..3_000),
        1 => rng.random_range(3_000..12_000),
        _ => rng.random_range(12_000..60_000),
    };
    let index = rng.random_range(0..COORDINATORS);
    let node = rng.random_range(0..nodes);
    let fault = match rng.random_range(0..15) {
        0 => Fault::KillCoordinator { index, for_ms },
        1 | 2 => Fault::FreezeCoordinator { index, for_ms },
        3 => Fault::CutFromStore { index, for_ms },
        4 => Fault::StoreRefuses { for_ms },
        5 => Fault::ObjectsRefuse { for_ms },
        6 => Fault::KillNode { node, for_ms },
        7 => Fault::FreezeNode { node, for_ms },
        8 | 9 => Fault::ReplaceFrozenNode { node, for_ms },
        10 => Fault::CloseNode { node },
        11 => {
            let (up, down) = [(true, true), (true, false), (false, true)][rng.random_range(0..3)];
            Fault::CutNode {
                node,
                up,
                down,
                for_ms,
            }
        }
        12 => Fault::ResetLink { node },
        _ => Fault::HoldRows {
            owner: user(rng.random_range(0..users)),
            for_ms,
        },
    };
    (at_ms, fault)
}
