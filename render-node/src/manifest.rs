//! What a clip was made from, as far as the node knows it (invariant 11).

use flowai_actors::ids::{Generation, NodeId};
use flowai_actors::manifest::{EngineInfo, KeyframeMade, Manifest};
use flowai_actors::messages::{Assign, FirstFrameSource};

use crate::job::Ready;

/// What of a manifest is the same for every clip of this process.
#[derive(Debug, Clone)]
pub struct Maker {
    pub node: NodeId,
    pub generation: Generation,
    pub engine: EngineInfo,
    /// Equal classes give equal bits.
    pub device_class: String,
}

impl Maker {
    /// What can read this process's checkpoints.
    pub(crate) fn checkpoint_engine(&self) -> String {
        let EngineInfo { name, version, .. } = &self.engine;
        format!("{name} {version}")
    }

    /// The manifest of a clip that lies ready; the time of its upload is still to come.
    pub(crate) fn manifest(&self, assign: &Assign, ready: &Ready) -> Manifest {
        Manifest {
            manifest_version: Manifest::VERSION,
            job: assign.at.job,
            attempt: assign.at.attempt,
            epoch: assign.at.epoch,
            node: self.node.clone(),
            generation: self.generation,
            spec: assign.spec.clone(),
            model_sha256: assign.model_sha256,
            adapters: ready.adapters.clone(),
            keyframe: keyframe(assign, ready),
            resumed: ready.resumed.clone(),
            engine: self.engine.clone(),
            device_class: self.device_class.clone(),
            clip_sha256: ready.encoded.clip.sha256,
            clip_bytes: ready.encoded.clip.bytes,
            timings_ms: ready.timings_ms.clone(),
        }
    }
}

fn keyframe(assign: &Assign, ready: &Ready) -> Option<KeyframeMade> {
    let FirstFrameSource::Keyframe { model_sha256, .. } = assign.first_frame else {
        return None;
    };
    let made = ready.keyframe.as_ref()?;
    Some(KeyframeMade {
        model_sha256,
        adapters: made.adapters.clone(),
        sha256: made.file.sha256,
        bytes: made.file.bytes,
        tokens_cut: made.tokens_cut,
    })
}
