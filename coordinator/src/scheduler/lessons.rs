//! What the end of an attempt says of its node and of jobs like it.

use flowai_actors::messages::Stage;

use super::event::Ran;
use super::jobs::JobIx;
use super::names::ModelIx;
use super::nodes::NodeIx;
use super::state::Scheduler;

/// As a node names a failure for lack of memory.
const OUT_OF_MEMORY: &str = "out_of_memory";

impl Scheduler {
    /// What a render says of its node and of renders like it.
    pub(super) fn learn(&mut self, ix: JobIx, node_ix: NodeIx, ran: Option<Ran>) {
        let Some(job) = self.jobs.get(ix) else { return };
        let Some(needs) = self.kinds.get(job.kind).map(|kind| kind.needs) else {
            return;
        };
        let against: Vec<(NodeIx, ModelIx, bool)> = job
            .story
            .iter()
            .flat_map(|story| story.failed_on.iter().map(move |other| (*other, story)))
            .filter(|(other, _)| *other != node_ix)
            .filter_map(|(other, story)| {
                let spoken_of = story.speaks_of.get(&other).copied();
                let model = spoken_of.unwrap_or(Some(needs.model))?;
                Some((other, model, story.died_on.contains(&other)))
            })
            .collect();
        let has_failed = !against.is_empty();
        let (baseline_s, adapters) = (job.cost, job.adapters.clone());
        let kind = job.kind;
        for model in needs.models() {
            self.trust.succeeded(node_ix, model, self.now);
        }
        for (other, model, was_lost) in against {
            self.trust.proven(other, model, was_lost, self.now);
        }
        if has_failed {
            self.trust_changed();
        }
        let Some(group) = self.nodes.get(node_ix).map(|node| node.group) else {
            return;
        };
        let refitted = self.kinds.had_memory(kind, group, node_ix, self.now);
        self.refit(refitted);
        let class = self.kinds.get_group(group).map(|group| group.class);
        let running = self.nodes.get(node_ix).and_then(|node| node.running);
        let cold = running.map(|running| running.cold).unwrap_or_default();
        if let (Some(class), Some(ran)) = (class, ran) {
            if running.is_some_and(|running| running.is_whole) {
                self.durations.learn(needs, class, baseline_s, ran.busy.0);
            }
            self.durations
                .learn_load(needs.model, class, cold, ran.load.0);
        }
        // Its next beat says so too; until then it counts as what it has just used.
        if let Some(node) = self.nodes.get_mut(node_ix) {
            node.model = Some(needs.model);
            node.fused = adapters.iter().copied().collect();
            node.near.extend(adapters);
        }
    }

    /// A failure that may be the node's. `is_called_wrong`: it says that it is the job's, and another node is asked. Until that one renders
    /// it, nothing is held against the first.
    pub(super) fn note_failure(
        &mut self,
        ix: JobIx,
        node_ix: NodeIx,
        code: &str,
        stage: Stage,
        is_called_wrong: bool,
    ) {
        let Some(job) = self.jobs.get(ix) else { return };
        let (id, kind) = (job.id, job.kind);
        let Some(needs) = self.kinds.get(kind).map(|kind| kind.needs) else {
            return;
        };
        // Which sizes of pictures are too large is not learned: that says nothing of clips.
        let (model, is_of_memory) = match (code == OUT_OF_MEMORY, stage) {
            (true, _) => (None, stage == Stage::Clip),
            (false, Stage::Keyframe) => (Some(needs.keyframe.unwrap_or(needs.model)), false),
            (false, Stage::Clip) => (Some(needs.model), false),
        };
        if let Some(job) = self.jobs.get_mut(ix) {
            let story = job.story();
            story.speaks_of.insert(node_ix, model);
            story.is_called_wrong |= is_called_wrong;
        }
        let group = self.nodes.get(node_ix).map(|node| node.group);
        if let Some(group) = group.filter(|_| is_of_memory) {
            let refitted = self.kinds.ran_out_of_memory(kind, group, node_ix, self.now);
            self.refit(refitted);
        }
        if let Some(model) = model.filter(|_| !is_called_wrong) {
            self.trust.failed(node_ix, model, id, self.now);
            self.trust_changed();
        }
    }

    /// A job that failed on more than one node, until nobody tries it any more, says nothing against them.
    pub(super) fn exonerate(&mut self, ix: JobIx) {
        let Some(job) = self.jobs.get(ix) else { return };
        let Some(kind) = self.kinds.get(job.kind) else {
            return;
        };
        let nodes = job.story.iter().flat_map(|story| &story.failed_on);
        let nodes: Vec<NodeIx> = nodes.copied().collect();
        if nodes.len() < 2 {
            return;
        }
        let (id, needs) = (job.id, kind.needs);
        for node in nodes {
            for model in needs.models() {
                self.trust.exonerated(node, model, id);
            }
            self.touch_node(node);
        }
    }
}
