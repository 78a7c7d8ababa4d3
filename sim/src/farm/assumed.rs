//! Assumed, because no trace says it and nothing of it was measured here.

/// Mean clip on the reference device, s: SVD-XT's 25 frames of 1024x576 in 25 steps on a GPU of a data centre, as the
/// coordinator's baseline prediction has it. The trace's run times are stretched to this mean and keep their shape.
pub const CLIP_MEAN_S: f64 = 60.0;

/// The clip whose steps vary with its run time.
pub const FRAMES: u32 = 25;
pub const WIDTH_PX: u32 = 1_024;
pub const HEIGHT_PX: u32 = 576;
pub const STEPS: u32 = 25;
pub const STEPS_MAX: u32 = 100;
/// Steps that encoding and decoding are worth; a clip cannot stop in them.
pub const FIXED_STEPS: u32 = 3;
/// A clip's run time over its prediction is lognormal with this deviation.
pub const PREDICTION_SIGMA: f64 = 0.15;

/// Of the users; the others are free.
pub const PRO_USERS: f64 = 0.15;
pub const STUDIO_USERS: f64 = 0.05;
/// Of paying users' visits of at least [`BATCH_REQUESTS_MIN`] requests: handed in at once.
pub const BATCH_VISITS: f64 = 0.25;
pub const BATCH_REQUESTS_MIN: u32 = 4;

/// Adapters for each base model, by Zipf's law: the trace does not say which adapter a request had.
pub const ADAPTERS_PER_MODEL: u16 = 200;
pub const ADAPTER_ZIPF: f64 = 1.0;
/// Adapters that a node's host memory keeps, least recently used out first.
pub const HOST_ADAPTERS: usize = 64;
/// From one adapter in host memory to another on the device, ms.
pub const ADAPTER_SWITCH_MS: u64 = 100;

/// Of each class of device half the nodes: the reference, and one of half its speed that lacks the memory for every fourth
/// model.
pub const LARGE_SPEED: f64 = 1.0;
pub const SMALL_SPEED: f64 = 0.5;
pub const LARGE_MODEL_EVERY: u16 = 4;

/// Between a result and the user's next wish at the least, s.
pub const THINK_MIN_S: f64 = 5.0;

/// From a step boundary until a checkpoint is stored and the node is free, ms.
pub const CHECKPOINT_MS: u64 = 1_500;
