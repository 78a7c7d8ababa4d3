//! A world in which one node fails what the others render, and nothing else fails.

use flowai_actors::ids::JobId;
use flowai_actors::limits::NODE_FAULTS_MAX;
use flowai_actors::state::{Class, Tier};
use rand::Rng as _;
use rand::rngs::StdRng;
use uuid::Uuid;

use super::checks::Check;
use super::plan::{Kind, Nature, Plan, Wish, user};
use super::world::World;

/// Its slot.
pub(super) const BAD_NODE: usize = 0;
const JOBS: usize = 24;
const USERS: usize = 8;
const STEPS: u32 = 4;
const STEP_MS: u64 = 3_000;
/// They are asked for within this.
const ASKED_MS: u64 = 900_000;
/// By then all nodes have joined: while there is no other, what the bad one says of a job holds.
const JOINED_MS: u64 = 30_000;

/// Good jobs, and a node that is free for the next as soon as it has failed one.
pub(super) fn plan(rng: &mut StdRng) -> Plan {
    let natures = [Nature::Bad, Nature::Flaky, Nature::Killer];
    let kind = Kind::BadNode(natures[rng.random_range(0..natures.len())]);
    let nodes = rng.random_range(2..=4);
    let wishes = (0..JOBS).map(|_| {
        let owner = rng.random_range(0..USERS);
        Wish {
            at_ms: JOINED_MS + rng.random_range(0..ASKED_MS),
            job: JobId::from_uuid(Uuid::nil()),
            owner: user(owner),
            tier: Tier::ALL[owner % Tier::ALL.len()],
            class: Class::Interactive,
            after: None,
            nature: Nature::Good,
            steps: STEPS,
            step_ms: STEP_MS,
            cancel_after_ms: None,
        }
    });
    let wishes: Vec<Wish> = wishes.collect();
    // Were there one good node, and each job begun three times.
    let work_ms = 3 * JOBS as u64 * u64::from(STEPS + 1) * STEP_MS;
    Plan::calm(kind, nodes, wishes, JOINED_MS + ASKED_MS + work_ms)
}

impl World {
    /// It costs nobody a clip, and after a few jobs it is given none for a while.
    pub(super) fn look_at_bad_node(&mut self) {
        self.users.look_for_clips(&mut self.checks);
        let attempts = self.store.rows().flat_map(|(_, row)| &row.attempts);
        let given = attempts.filter(|attempt| self.slot_of(&attempt.node) == Some(BAD_NODE));
        let given = given.count();
        // One that fails now and then renders some between; were it given none, nothing would be shown.
        let enough = 1..=2 * NODE_FAULTS_MAX;
        self.checks
            .require(Check::BadNodeIsLeftAlone, enough.contains(&given), || {
                format!("a node that fails what others render was given {given} jobs, {enough:?} are expected")
            });
    }
}
