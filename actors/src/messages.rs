//! What the programs say to each other over the link: small, and every one of them may be lost, doubled or late (INV-1).
//!
//! A body travels in an envelope as `(kind, JSON)`. A kind that the receiver does not know is counted and answered
//! `Unsupported`; fields may be added, so unknown fields are passed over; a kind never changes its meaning. What is to be rendered is no
//! such body: a field of a spec that a node does not know would be another picture, so it refuses the spec (`crate::spec`). Who adds one
//! raises the schema (`crate::wire`), and sees to it that nodes of the one before are given no job that has it.

use serde::{Deserialize, Serialize};

use crate::checkpoint::{
    CheckpointFile, CheckpointPlace, CheckpointPlaced, PlaceCheckpoint, Resume,
};
use crate::ids::{Attempt, Epoch, Generation, JobId, ModelId, NodeId, Sha256, UserId};
use crate::membership::{
    Join, JoinAnswer, MembersChanged, RenewCertificate, RenewCertificateAnswer,
};
use crate::preview::{PlacePreview, PreviewPlace, PreviewPlaced, PreviewReady};
use crate::spec::{AdapterUse, RenderSpec, SpecLimits};
use crate::waiting::{Ceilings, CeilingsQuery, Waits, WhyAnswer, WhyQuery};

/// Which try of which job, under whose term: every word about an attempt carries it, and a stale one changes nothing (INV-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AttemptRef {
    pub job: JobId,
    pub attempt: Attempt,
    /// The term of the leader that assigned or adopted it.
    pub epoch: Epoch,
}

/// An attempt and the process that may speak about it: what every durable write about the attempt compares (INV-2).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holding {
    /// The epoch is the one in the row: that of the term which assigned the attempt or adopted it last.
    pub at: AttemptRef,
    pub node: NodeId,
    pub generation: Generation,
}

// --- node -> leader ---

/// First word of a node on each new link (ask). Errors: `Fenced` when a newer generation of this node is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Register {
    pub node: NodeId,
    pub generation: Generation,
    pub version: String,
    /// Equal classes give equal bits: processor or GPU, libtorch, threads.
    pub device_class: String,
    pub device: String,
    pub memory_bytes: u64,
    pub models: Vec<ModelOffer>,
    /// Folders that are not offered, and why.
    pub refused_models: Vec<RefusedModel>,
    /// What it works on at this moment: the leader adopts it or tells it to stop.
    pub running: Option<AttemptRef>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelOffer {
    pub id: ModelId,
    pub sha256: Sha256,
    pub family: ModelFamily,
    /// The UNet's config.json, from which the table of modules for adapters follows.
    pub unet_config: serde_json::Value,
    /// The text encoder's, of a keyframe model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder_config: Option<serde_json::Value>,
    /// Of clips for a video model, of pictures for a keyframe model.
    pub limits: SpecLimits,
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelFamily {
    /// Stable Video Diffusion: makes clips from pictures.
    Svd,
    /// Stable Diffusion 1.x and 2.x: makes keyframes from words.
    Sd,
}

impl ModelFamily {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Svd => "svd",
            Self::Sd => "sd",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedModel {
    pub folder: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Registered {
    Welcome {
        epoch: Epoch,
        /// What to do with `running`.
        running: Verdict,
    },
    /// A newer process of this node is known: stop.
    Fenced { held: Generation },
}

/// What the leader thinks of an attempt that a node reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing was reported.
    Idle,
    /// Go on; from now on under the epoch of the answer.
    GoOn,
    /// It runs elsewhere, or nobody wants it: drop it.
    Drop,
}

/// Every `NODE_BEAT_MS` (ask). Only the newest `seq` of a generation counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    pub node: NodeId,
    pub generation: Generation,
    pub seq: u64,
    pub running: Option<AttemptRef>,
    /// It ends with this job, or now, and takes no other. Never so from a node of an older build.
    #[serde(default)]
    pub is_closing: bool,
    /// Adapters on its disk, newest first.
    pub held_adapters: Vec<Sha256>,
    /// What of them is nearer to the weights. Empty from a node of an older build.
    #[serde(default)]
    pub adapters: AdapterTiers,
}

/// Where a node has adapters, from what it computes with to its disk: the nearer, the sooner a job with them starts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AdapterTiers {
    /// T0: fused into the weights. `None` before a model is loaded, and when the last fusing failed.
    pub fused: Option<FusedState>,
    /// T1: factors in the device's memory. `None` where that is the host's, as on a CPU.
    pub device: Option<KeptAdapters>,
    /// T2: read and checked in the host's memory.
    pub host: KeptAdapters,
    /// T3: files. Their hashes are the beat's `held_adapters`.
    pub disk: CacheUsage,
}

/// What a model computes with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FusedState {
    pub model: ModelId,
    /// Equal ids on nodes of one device class are equal bits.
    pub state: Sha256,
    /// In the order of fusing.
    pub adapters: Vec<AdapterUse>,
}

/// Adapters in one memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAdapters {
    /// Newest first; the oldest are left out where there are many.
    pub adapters: Vec<Sha256>,
    pub usage: CacheUsage,
}

/// How full a tier is, and how it was used since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUsage {
    pub bytes: u64,
    pub bytes_max: u64,
    /// Times that a wanted adapter was there.
    pub hits: u64,
    /// Times that it had to be brought.
    pub misses: u64,
    /// Adapters that went for lack of room.
    pub evictions: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum BeatAnswer {
    /// The lease runs for another `NODE_LEASE_MS` from the beat's arrival.
    Renewed {
        epoch: Epoch,
        running: Verdict,
    },
    /// This leader does not know the node (it is new): register again.
    Unknown,
    Fenced {
        held: Generation,
    },
}

/// At most every `PROGRESS_INTERVAL_MS` (cast; only the newest counts).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub at: AttemptRef,
    pub phase: Phase,
    /// Steps done, 0..=steps.
    pub step: u32,
    /// Of the clip; of the keyframe in its phase.
    pub steps: u32,
    /// Seconds left by the node's own estimate.
    pub left_s: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Fetching,
    Preparing,
    /// The picture is made from words; the steps are those of the keyframe.
    Keyframe,
    Denoising,
    Decoding,
    Uploading,
}

/// Which of a job's models was at work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    #[default]
    Clip,
    /// That which makes the first frame from words.
    Keyframe,
}

impl Stage {
    const fn is_clip(&self) -> bool {
        matches!(self, Self::Clip)
    }
}

/// The end of an attempt, told until it is answered (ask).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub at: AttemptRef,
    pub node: NodeId,
    pub generation: Generation,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// All files lie where [`UploadTargets`] was told to put them.
    Rendered {
        clip_sha256: Sha256,
        clip_bytes: u64,
        manifest: Box<crate::manifest::Manifest>,
    },
    /// `retryable`: another node, or this one later, may succeed.
    Failed {
        code: String,
        detail: String,
        retryable: bool,
        /// A node of an older build does not say it.
        #[serde(default, skip_serializing_if = "Stage::is_clip")]
        stage: Stage,
    },
    /// Stopped at a step boundary because it was told to.
    Stopped {
        /// The newest that lies in the store. A node of an older build leaves none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checkpoint: Option<CheckpointFile>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedAnswer {
    /// Written. The node may forget the attempt.
    Settled,
    /// Not this attempt's any more; nothing was changed. The node drops what it has.
    Stale,
}

/// Where to put the files of an attempt, asked when all of them lie ready on the node (ask): the URLs live for
/// `UPLOAD_URL_MS`, a render may take longer. May be asked again; the answer is anew each time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadTargets {
    pub at: AttemptRef,
    pub node: NodeId,
    pub generation: Generation,
    /// Each of [`ArtefactFile::of`] the spec once.
    pub files: Vec<ReadyFile>,
}

/// One file of a clip, complete, as it will be uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyFile {
    pub file: ArtefactFile,
    pub sha256: Sha256,
    pub bytes: u64,
}

/// What a render delivers, beside the manifest, which travels in [`Outcome::Rendered`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtefactFile {
    Clip,
    Poster,
    Preview,
    Spritesheet,
    /// The picture that was made from words. It becomes one of the user's pictures, to be animated again.
    Keyframe,
}

impl ArtefactFile {
    /// Of every render.
    const CLIP_FILES: [Self; 4] = [Self::Clip, Self::Poster, Self::Preview, Self::Spritesheet];

    /// What a render of this spec delivers.
    pub fn of(spec: &RenderSpec) -> Vec<Self> {
        Self::of_render(spec.keyframe().is_some())
    }

    /// What a render delivers that makes its first frame from words, or does not.
    pub fn of_render(has_keyframe: bool) -> Vec<Self> {
        let mut files = Self::CLIP_FILES.to_vec();
        files.extend(has_keyframe.then_some(Self::Keyframe));
        files
    }

    /// Under which it is uploaded and served.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Clip => "video/mp4",
            Self::Poster | Self::Preview => "image/webp",
            Self::Spritesheet => "image/jpeg",
            Self::Keyframe => "image/png",
        }
    }

    /// The last part of its object key.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Clip => "clip.mp4",
            Self::Poster => "poster.webp",
            Self::Preview => "preview.webp",
            Self::Spritesheet => "spritesheet.jpg",
            Self::Keyframe => "keyframe.png",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum UploadTargetsAnswer {
    /// In the order asked.
    Targets { targets: Vec<Target> },
    /// Not this attempt's any more: drop it.
    Stale,
    /// The files cannot be taken: the attempt fails for this reason.
    Refused { reason: String },
}

/// A presigned PUT: exactly the announced bytes, once. Status 412 says that they lie there already.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub file: ArtefactFile,
    pub url: String,
    /// To be sent as they are.
    pub headers: Vec<(String, String)>,
}

impl std::fmt::Debug for Target {
    /// Never prints the URL: it is as good as a credential until it expires.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

// --- leader -> node ---

/// Work for a node (ask). Sent only after the assignment is committed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assign {
    pub at: AttemptRef,
    pub spec: RenderSpec,
    pub model_sha256: Sha256,
    pub first_frame: FirstFrameSource,
    /// In the order of `spec.adapters`.
    pub adapters: Vec<Source>,
    /// Where an earlier attempt got to. A node that cannot use it begins anew and says so in the manifest; one of an older
    /// build begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
}

/// What the first frame is made from, as `spec.first_frame` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstFrameSource {
    Image(Source),
    Keyframe {
        model_sha256: Sha256,
        /// In the order of the keyframe's adapters.
        adapters: Vec<Source>,
    },
}

/// What the node will probably be given next (cast): it may bring the adapters near while its present job runs. Carries no
/// right to work, and is not told again when it is lost. The next one takes its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefetch {
    pub job: JobId,
    pub stages: Vec<PrefetchStage>,
}

/// A model of the job and the adapters that are for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchStage {
    pub model: ModelId,
    pub model_sha256: Sha256,
    pub adapters: Vec<Source>,
}

/// Bytes to fetch at once, before the model is loaded: known by hash, reached by a presigned URL that lives for
/// `DOWNLOAD_URL_MS`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub sha256: Sha256,
    pub bytes: u64,
    pub url: String,
}

impl std::fmt::Debug for Source {
    /// Never prints the URL: it is as good as a credential until it expires.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("sha256", &self.sha256)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum AssignAnswer {
    /// Also when this very attempt was taken before.
    Accepted,
    Busy {
        with: AttemptRef,
    },
    Refused {
        reason: String,
    },
}

/// Stop at the next step boundary (ask). Answered `true` when the node works on it; its `Ended` follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub at: AttemptRef,
    /// The job goes on elsewhere: what is done is kept in a checkpoint, and a clip that is complete is still delivered. A node
    /// of an older build only stops.
    #[serde(default)]
    pub keep: bool,
}

// --- api <-> leader ---

/// A job was queued or a cancel was asked for (cast). When it is lost, the leader's sweep finds the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doorbell {
    pub job: JobId,
}

/// To every api instance: new durable events of this user can be read (cast). Lost ones are made up for by the next, or by a reader's own look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsReady {
    pub user: UserId,
}

/// To every api instance: the newest state of a job that no row holds (cast).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Live {
    pub user: UserId,
    pub job: JobId,
    pub live: LiveState,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "live", rename_all = "snake_case")]
pub enum LiveState {
    Progress {
        attempt: Attempt,
        phase: Phase,
        step: u32,
        steps: u32,
        left_s: Option<f64>,
    },
    Position {
        /// 1 is next.
        position: u32,
        #[serde(flatten)]
        waits: Waits,
    },
}

/// Ask of an api instance for what only the leader knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmQuery {
    /// Of the nodes, those behind this one: as [`FarmView::next_after`] said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<NodeId>,
}

/// Compare what you believe with the rows, now (api to leader, ask).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Unfinished jobs in the rows.
    pub jobs: u64,
    /// Those that seemed to differ, and were read again: most are news that was on its way.
    pub suspected: u64,
    /// Those that differed indeed. The rows are believed by now.
    #[serde(default)]
    pub differing: u64,
    /// The first [`COMPARE_NAMED_MAX`](crate::limits::COMPARE_NAMED_MAX) of them.
    #[serde(default)]
    pub differences: Vec<Difference>,
}

/// A job of which the leader believed something else than its row says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub job: JobId,
    /// For people, as is `row`.
    pub memory: String,
    pub row: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FarmView {
    pub epoch: Option<Epoch>,
    /// In the order of their names, as many as fit into a message.
    pub nodes: Vec<NodeView>,
    /// The last of them, where more follow. A build that does not say it sends all or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<NodeId>,
    /// By tier: queued and running.
    pub queues: Vec<QueueView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    pub node: NodeId,
    pub generation: Generation,
    pub device: String,
    pub device_class: String,
    pub memory_bytes: u64,
    pub version: String,
    pub models: Vec<ModelId>,
    pub refused_models: Vec<RefusedModel>,
    /// The newest of those on its disk.
    pub held_adapters: Vec<Sha256>,
    /// How many lie there; a build before this one names them all.
    #[serde(default)]
    pub held_adapters_count: Option<u32>,
    /// As of its newest beat.
    #[serde(default)]
    pub adapters: AdapterTiers,
    pub running: Option<AttemptRef>,
    /// It gets no other job, whoever wanted that.
    #[serde(default)]
    pub is_draining: bool,
    /// Models of which it gets no job for now, after failures that may be its own.
    #[serde(default)]
    pub distrusted_models: Vec<ModelId>,
    /// How many times as long as usual on its class its steps take, while that is much more.
    #[serde(default)]
    pub slowness: Option<f64>,
    pub silent_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueView {
    pub tier: crate::state::Tier,
    pub queued: u32,
    pub running: u32,
}

/// A body with its number on the wire.
pub trait Body: Serialize + for<'de> Deserialize<'de> {
    const KIND: u32;
}

macro_rules! bodies {
    ($($kind:literal => $body:ty),* $(,)?) => {
        $(impl Body for $body { const KIND: u32 = $kind; })*
        #[cfg(test)]
        pub(crate) const KINDS: &[u32] = &[$($kind),*];
    };
}

// Numbers are never used again for another body. An answer has the number of its question, which is even, plus 1.
bodies! {
    10 => Register, 11 => Registered,
    12 => Beat, 13 => BeatAnswer,
    14 => Progress,
    16 => Ended, 17 => EndedAnswer,
    18 => UploadTargets, 19 => UploadTargetsAnswer,
    20 => Assign, 21 => AssignAnswer,
    22 => Stop, 23 => bool,
    26 => Prefetch,
    30 => Doorbell,
    32 => EventsReady,
    34 => Live,
    36 => FarmQuery, 37 => FarmView,
    40 => PlacePreview, 41 => PreviewPlace,
    42 => PreviewPlaced,
    44 => PreviewReady,
    46 => WhyQuery, 47 => WhyAnswer,
    48 => Compare, 49 => Compared,
    50 => CeilingsQuery, 51 => Ceilings,
    60 => PlaceCheckpoint, 61 => CheckpointPlace,
    62 => CheckpointPlaced,
    70 => Join, 71 => JoinAnswer,
    72 => RenewCertificate, 73 => RenewCertificateAnswer,
    74 => MembersChanged,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_body_has_a_number_of_its_own() {
        let kinds: BTreeSet<u32> = KINDS.iter().copied().collect();
        assert_eq!(kinds.len(), KINDS.len());
    }

    #[test]
    fn what_the_build_before_checkpoints_says_is_read() {
        let at = r#"{"job":"0198c0de-0000-7000-8000-000000000000","attempt":1,"epoch":1}"#;
        let stop: Stop = serde_json::from_str(&format!(r#"{{"at":{at}}}"#)).unwrap();
        assert!(!stop.keep);
        let stopped: Outcome = serde_json::from_str(r#"{"outcome":"stopped"}"#).unwrap();
        assert_eq!(stopped, Outcome::Stopped { checkpoint: None });
        assert_eq!(
            serde_json::to_string(&stopped).unwrap(),
            r#"{"outcome":"stopped"}"#
        );
    }

    #[test]
    fn the_build_before_checkpoints_reads_what_is_said_of_them() {
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(tag = "outcome", rename_all = "snake_case")]
        enum Before {
            Stopped,
        }
        let stopped = Outcome::Stopped {
            checkpoint: Some(CheckpointFile {
                sha256: Sha256::from_bytes([1; 32]),
                bytes: 10,
                step: 3,
                steps: 25,
                device_class: "cpu".to_owned(),
                engine: "svd 1".to_owned(),
                resumed: Vec::new(),
            }),
        };
        let text = serde_json::to_string(&stopped).unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), stopped);
        assert_eq!(
            serde_json::from_str::<Before>(&text).unwrap(),
            Before::Stopped
        );
    }

    #[test]
    fn a_view_of_the_build_before_drains_were_told_is_read() {
        let view: NodeView = serde_json::from_str(
            r#"{"node":"n1","generation":1,"device":"cpu","device_class":"cpu","memory_bytes":1,"version":"0","models":[],
                "refused_models":[],"held_adapters":[],"running":null,"silent_ms":0}"#,
        )
        .unwrap();
        assert!(!view.is_draining && view.distrusted_models.is_empty());
    }

    #[test]
    fn a_newer_senders_field_is_passed_over() {
        let old: Doorbell =
            serde_json::from_str(r#"{"job":"0198c0de-0000-7000-8000-000000000000","priority":3}"#)
                .unwrap();
        assert_eq!(old.job.to_string(), "0198c0de-0000-7000-8000-000000000000");
    }
}
