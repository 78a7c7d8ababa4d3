//! What a clip will be, shown while it is denoised: the engine paints its guess of a few small frames ([`PreviewMaps`]), a
//! thread of its own makes a moving picture of them ([`PreviewMaker`]), the node's actor has it sent. Nothing waits for a
//! preview: while one is being made or sent, the steps in between go by without.

mod maker;
mod maps;

use bytes::Bytes;
use flowai_actors::ids::Sha256;

pub use maker::PreviewMaker;
pub use maps::PreviewMaps;

/// An animated WebP of a step, at most [`flowai_actors::limits::PREVIEW_BYTES_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovingPicture {
    /// Denoising steps done.
    pub step: u32,
    pub sha256: Sha256,
    pub webp: Bytes,
}
