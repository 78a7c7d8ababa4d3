//! Which sizes of a model are too large for nodes that are alike, learned from those that ran out of memory.
//!
//! A size that ran out on one node is not given to that node for a while: another program may have its memory, or a leak. Only
//! when it ran out on [`MEMORY_CEILING_NODES`] nodes, and none like them rendered as large a clip lately, it is too large for
//! all of them.

use std::collections::BTreeMap;

use flowai_actors::clock::Monotonic;
use flowai_actors::limits::MEMORY_CEILING_NODES;

use super::needs::SizeBucket;
use super::nodes::NodeIx;

/// Of one model, on nodes that are alike.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    /// The smallest size that ran out of memory on each node, and until when that is believed.
    ceilings: BTreeMap<NodeIx, (SizeBucket, Monotonic)>,
    /// The largest size that one of them rendered, and until when that is believed.
    rendered: Option<(SizeBucket, Monotonic)>,
}

impl Memory {
    pub(super) fn ran_out(&mut self, node: NodeIx, size: SizeBucket, until: Monotonic) {
        let ceiling = self.ceilings.entry(node).or_insert((size, until));
        *ceiling = (ceiling.0.min(size), until);
    }

    /// Whether other sizes fit now.
    pub(super) fn rendered(&mut self, node: NodeIx, size: SizeBucket, until: Monotonic) -> bool {
        if self.rendered.is_none_or(|(largest, _)| largest <= size) {
            self.rendered = Some((size, until));
        }
        let has_doubts = !self.ceilings.is_empty();
        if self
            .ceilings
            .get(&node)
            .is_some_and(|(ceiling, _)| *ceiling <= size)
        {
            self.ceilings.remove(&node);
        }
        has_doubts
    }

    /// Forgets what is old. Whether other sizes fit now.
    pub(super) fn expire(&mut self, now: Monotonic) -> bool {
        let before = (self.ceilings.len(), self.rendered.is_some());
        self.ceilings.retain(|_, (_, until)| now < *until);
        self.rendered = self.rendered.filter(|(_, until)| now < *until);
        before != (self.ceilings.len(), self.rendered.is_some())
    }

    /// Whether the size is too large for all of them.
    pub(super) fn is_short(&self, size: SizeBucket) -> bool {
        let was_rendered = self.rendered.is_some_and(|(largest, _)| size <= largest);
        !was_rendered && self.short_nodes(size).count() >= MEMORY_CEILING_NODES
    }

    /// Nodes on which the size, or a smaller one, ran out.
    pub(super) fn short_nodes(&self, size: SizeBucket) -> impl Iterator<Item = NodeIx> {
        let short = self.ceilings.iter();
        short.filter_map(move |(node, (ceiling, _))| (*ceiling <= size).then_some(*node))
    }
}
