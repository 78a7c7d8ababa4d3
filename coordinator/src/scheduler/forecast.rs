//! What a busy node will probably be given next.

use flowai_actors::ids::{JobId, NodeId};

use super::state::Scheduler;

impl Scheduler {
    /// The job that the node would be given if the one it has ended now. A forecast: arrivals, ends and other nodes change it.
    /// `None` for a node that is free, or is given nothing, and when nobody waits for it.
    pub fn next_on(&self, node: &NodeId) -> Option<JobId> {
        let (running, _) = self.running_on(node)?;
        let leaves = self.owner_of(running);
        let (heads, claims) = self.candidates(node, leaves);
        let served = self.shares().next(&claims, self.now())?;
        heads.get(&served.user).copied()
    }
}
