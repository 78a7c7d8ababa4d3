//! What a job asks of a node.

use super::event::Shape;
use super::names::ModelIx;

/// The size of a clip in steps of a quarter of an octave: memory grows with frames times pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SizeBucket(u8);

impl SizeBucket {
    pub(super) fn of(shape: Shape) -> Self {
        let volume = f64::from(shape.frames) * f64::from(shape.width) * f64::from(shape.height);
        Self((4.0 * volume.max(1.0).log2()) as u8)
    }

    /// Frames times pixels of the smallest clip of this size.
    pub(super) fn volume(self) -> f64 {
        2_f64.powf(f64::from(self.0) / 4.0)
    }
}

/// What a node must have for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Needs {
    pub(super) model: ModelIx,
    pub(super) keyframe: Option<ModelIx>,
    pub(super) size: SizeBucket,
}

impl Needs {
    pub(super) fn models(&self) -> impl Iterator<Item = ModelIx> {
        self.keyframe.into_iter().chain([self.model])
    }
}

/// Jobs that can run on the same nodes: those with equal needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct KindIx(pub(super) u32);
