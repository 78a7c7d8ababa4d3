//! One job on its way through the node: fetch, render, upload. It decides nothing about leases; whoever runs it stops it.

mod ahead;
mod estimate;
mod folder;
mod inputs;
mod resume;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fail::fail_point;
use flowai_actors::manifest::{FusedAdapter, Resumed, StageTimings};
use flowai_actors::messages::{
    ArtefactFile, Assign, FirstFrameSource, Phase, ReadyFile, Source, Target,
};
use flowai_actors::spec::RenderSpec;
use flowai_svd::lora::HostAdapters;
use futures::future::{try_join, try_join_all};
use tokio::sync::{mpsc, watch};

use crate::cache::{Cache, FetchError, Held};
use crate::encoder::{Encoded, EncodedFile};
use crate::engine::{
    Control, EngineError, EngineEvent, EngineHandle, Keyframe, Order, PreviewOrder, Rendered,
};
use crate::failure::{FailureCode, JobFailure};
use crate::manifest::Maker;
use crate::models::Models;
use crate::preview::MovingPicture;
use crate::pulse::Pulse;
use crate::uploader::{UploadError, Uploader};
use estimate::Estimate;
use folder::JobFolder;
use inputs::{Inputs, Plan};
use resume::Beginning;

pub use estimate::Pace;
pub use flowai_node_machine::{NotRendered, NotUploaded, Standing};
pub use folder::JobFolders;
pub use resume::LocalCheckpoint;

/// Everything that rendering a job takes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Workshop {
    pub models: Arc<Models>,
    pub pictures: Cache,
    pub adapters: Cache,
    pub checkpoints: Cache,
    /// Where the engine finds adapters that were read and checked ahead; `None` for an engine that reads none.
    pub host_adapters: Option<HostAdapters>,
    pub uploader: Uploader,
    pub engine: EngineHandle,
    pub folders: JobFolders,
    /// How fast this machine was with earlier jobs.
    pub pace: Arc<Pace>,
    /// A preview after so many steps each; 0 for none.
    pub preview_steps: u32,
    /// So often a run is kept while it is denoised.
    pub checkpoint_every: Duration,
}

/// Where what is made beside a running job goes.
#[derive(Debug)]
pub struct Outlets {
    pub previews: watch::Sender<Option<MovingPicture>>,
    pub checkpoints: watch::Sender<Option<Arc<LocalCheckpoint>>>,
}

/// A rendered clip on this machine's disk. Its files go when it is dropped.
#[derive(Debug)]
pub struct Ready {
    pub encoded: Encoded,
    /// `None` where the picture was given.
    pub keyframe: Option<Keyframe>,
    pub adapters: Vec<FusedAdapter>,
    /// The checkpoints on the way of the clip.
    pub resumed: Vec<Resumed>,
    /// All stages but the upload.
    pub timings_ms: StageTimings,
    /// Each of [`ArtefactFile::of`] the spec once.
    files: Vec<(ArtefactFile, EncodedFile)>,
    _folder: Arc<JobFolder>,
}

impl Ready {
    /// Errors: the engine made no keyframe, and the spec asks for one.
    fn new(
        spec: &RenderSpec,
        rendered: Rendered,
        beginning: Beginning,
        fetch_ms: f64,
        folder: Arc<JobFolder>,
    ) -> Result<Self, JobFailure> {
        let Rendered {
            encoded,
            adapters,
            keyframe,
            mut timings_ms,
        } = rendered;
        timings_ms.fetch = fetch_ms;
        let file = |file| {
            let made = match file {
                ArtefactFile::Clip => Some(&encoded.clip),
                ArtefactFile::Poster => Some(&encoded.poster),
                ArtefactFile::Preview => Some(&encoded.preview),
                ArtefactFile::Spritesheet => Some(&encoded.spritesheet),
                ArtefactFile::Keyframe => keyframe.as_ref().map(|keyframe| &keyframe.file),
            };
            made.map(|made| (file, made.clone())).ok_or_else(|| {
                let detail = format!("engine made no {}", file.file_name());
                JobFailure::new(FailureCode::EngineFailed, detail)
            })
        };
        let files = ArtefactFile::of(spec).into_iter().map(file);
        Ok(Self {
            files: files.collect::<Result<_, _>>()?,
            encoded,
            keyframe,
            adapters,
            resumed: beginning.into_resumed(),
            timings_ms,
            _folder: folder,
        })
    }

    /// What the leader is asked to take.
    pub fn files(&self) -> Vec<ReadyFile> {
        let ready = |(file, made): &(ArtefactFile, EncodedFile)| ReadyFile {
            file: *file,
            sha256: made.sha256,
            bytes: made.bytes,
        };
        self.files.iter().map(ready).collect()
    }

    /// Each file with its target, where the targets are exactly those of the files.
    fn placed<'a>(&'a self, targets: &'a [Target]) -> Option<Vec<(&'a EncodedFile, &'a Target)>> {
        let target = |(file, made): &'a (ArtefactFile, EncodedFile)| {
            let target = targets.iter().find(|target| target.file == *file)?;
            Some((made, target))
        };
        let placed = self.files.iter().map(target).collect::<Option<Vec<_>>>();
        placed.filter(|placed| placed.len() == targets.len())
    }
}

impl Workshop {
    /// Renders a job that was assigned, up to the files on this disk. `report` hears of every change, and while inputs are
    /// fetched that they still come; `outlets` have the newest preview and the newest checkpoint. A job that was stopped to go on
    /// elsewhere has left its last checkpoint there when this returns.
    pub async fn render(
        &self,
        assign: &Assign,
        maker: &Maker,
        control: &Control,
        outlets: Outlets,
        report: impl Fn(Standing) + Clone + Send + Sync + 'static,
    ) -> Result<Ready, NotRendered> {
        let plan = self.plan(assign)?;
        let mut estimate = Estimate::new(&assign.spec, self.pace.clone());
        let fetching = estimate.standing();
        report(fetching);

        let started = Instant::now();
        let still = report.clone();
        let pulse = Pulse::new(move || still(fetching));
        let fetched = self.fetch_all(assign, &plan, maker, control, &pulse).await;
        let (inputs, resume, mut beginning) = fetched?;
        // One that does not fit fails the job before the engine hears of it.
        let mut checked = match self.check_all_ahead(&inputs).await {
            Ok(checked) => checked,
            Err(error) => {
                drop(inputs);
                return Err(self.not_rendered(assign, error).await);
            }
        };
        let fetch_ms = started.elapsed().as_secs_f64() * 1e3;

        let folder = Arc::new(self.folders.make().map_err(disk)?);
        let (events, mut heard) = mpsc::channel(crate::engine::EVENTS_QUEUED_MAX);
        let Inputs { clip, first_frame } = inputs;
        let order = Order {
            spec: assign.spec.clone(),
            clip,
            first_frame,
            out_dir: folder.path().to_owned(),
            control: control.clone(),
            previews: PreviewOrder {
                every_steps: self.preview_steps,
                newest: outlets.previews,
            },
            resume,
            checkpoint_every: self.checkpoint_every,
            events,
        };
        if self.engine.render(order).await.is_err() {
            return end_with_the_process().await;
        }
        while let Some(event) = heard.recv().await {
            match event {
                EngineEvent::Began(phase) => {
                    if phase == Phase::Denoising {
                        // The engine has read them all: the room is for what comes next.
                        checked.clear();
                    }
                    estimate.begin(phase);
                }
                EngineEvent::Resumed { done } => {
                    beginning = Beginning::begun(assign, None);
                    estimate.resume(done);
                }
                EngineEvent::Anew(reason) => {
                    beginning = Beginning::begun(assign, Some(reason));
                    continue;
                }
                EngineEvent::Kept(written) => {
                    let kept = beginning.checkpoint(assign, maker, written, &folder);
                    outlets.checkpoints.send_replace(Some(Arc::new(kept)));
                    continue;
                }
                EngineEvent::Step { done, elapsed } => estimate.step(done, elapsed),
                EngineEvent::Frame { done } => estimate.frame(done),
                EngineEvent::Ended(Ok(rendered)) => {
                    let ready = Ready::new(&assign.spec, *rendered, beginning, fetch_ms, folder);
                    return ready.map_err(NotRendered::Failed);
                }
                EngineEvent::Ended(Err(error)) => {
                    return Err(self.not_rendered(assign, error).await);
                }
            }
            report(estimate.standing());
        }
        end_with_the_process().await
    }

    /// What the job is made from, and the checkpoint that it goes on from if that can be had.
    async fn fetch_all(
        &self,
        assign: &Assign,
        plan: &Plan<'_>,
        maker: &Maker,
        control: &Control,
        pulse: &Pulse,
    ) -> Result<(Inputs, Option<Held>, Beginning), NotRendered> {
        let kept = async {
            Ok(match &assign.resume {
                None => (None, None),
                Some(resume) => match self.fetch_checkpoint(resume, maker, pulse).await {
                    Ok(held) => (Some(held), None),
                    Err(reason) => (None, Some(reason)),
                },
            })
        };
        let fetched = tokio::select! {
            biased;
            () = control.stopped() => Err(NotRendered::Stopped),
            fetched = try_join(self.fetch(plan, pulse), kept) => fetched,
        };
        let (inputs, (resume, unfit)) = fetched?;
        Ok((inputs, resume, Beginning::begun(assign, unfit)))
    }

    /// Puts the files where the targets say, also those of a job that was stopped to go on elsewhere. Gives the time it took.
    /// `pulse` beats while that goes on.
    pub async fn upload(
        &self,
        ready: &Ready,
        targets: &[Target],
        control: &Control,
        pulse: &Pulse,
    ) -> Result<Duration, NotUploaded> {
        let Some(placed) = ready.placed(targets) else {
            let detail = "leader named other upload targets than were asked for";
            let failure = JobFailure::new(FailureCode::UploadFailed, detail);
            return Err(NotUploaded::Failed(failure));
        };
        fail_point!("before_upload");
        let started = Instant::now();
        let puts = placed
            .into_iter()
            .map(|(file, target)| self.uploader.put(target, &file.path, pulse));
        tokio::select! {
            biased;
            () = control.dropped() => Err(NotUploaded::Stopped),
            done = try_join_all(puts) => match done {
                Ok(_) => {
                    fail_point!("after_s3_put");
                    Ok(started.elapsed())
                }
                Err(error) => Err(not_uploaded(error)),
            }
        }
    }

    /// What rotted on this disk is discarded, and says nothing about the job.
    async fn not_rendered(&self, assign: &Assign, error: EngineError) -> NotRendered {
        let failure = match self.failed(error) {
            NotRendered::Failed(failure) => failure,
            NotRendered::Stopped => return NotRendered::Stopped,
        };
        if failure.code != FailureCode::InvalidImage {
            return NotRendered::Failed(failure);
        }
        let what = match &assign.first_frame {
            FirstFrameSource::Image(Source { sha256, .. }) => {
                if self.pictures.is_whole(*sha256).await {
                    return NotRendered::Failed(failure);
                }
                format!("image {sha256}")
            }
            // It was whole when the engine wrote it.
            FirstFrameSource::Keyframe { .. } => "keyframe".to_owned(),
        };
        let detail = format!("{what} has rotted on this node's disk");
        NotRendered::Failed(JobFailure::new(FailureCode::DiskFailed, detail))
    }

    /// An adapter that rotted on this disk leaves it.
    fn failed(&self, error: EngineError) -> NotRendered {
        NotRendered::Failed(match error {
            EngineError::Stopped => return NotRendered::Stopped,
            EngineError::Failed(failure) => failure,
            EngineError::AdapterRotten { sha256, .. } => {
                self.adapters.discard(sha256);
                JobFailure::new(FailureCode::DiskFailed, &error)
            }
            EngineError::Lost(reason) => JobFailure::new(FailureCode::EngineFailed, reason),
        })
    }
}

/// The engine is lost. Nothing is said of the job: the end of this process is what the farm must hear, so that a job which
/// kills nodes is known as one.
async fn end_with_the_process() -> Result<Ready, NotRendered> {
    std::future::pending().await
}

fn not_fetched(what: &str, error: &FetchError) -> NotRendered {
    let code = match error {
        // After all tries: what the store holds is not what the order names.
        FetchError::TooLarge { .. } | FetchError::Length { .. } | FetchError::Content { .. } => {
            FailureCode::InputCorrupt
        }
        // An expired URL too: another assignment brings a new one.
        FetchError::Http { .. } => FailureCode::InputUnavailable,
        FetchError::Disk { .. } => FailureCode::DiskFailed,
    };
    NotRendered::Failed(JobFailure::new(code, format!("{what}: {error}")))
}

fn not_uploaded(error: UploadError) -> NotUploaded {
    let failure = |code| JobFailure::new(code, &error);
    match error {
        UploadError::Refused { .. } => NotUploaded::Expired(error.to_string()),
        UploadError::Http { .. } => NotUploaded::Unreachable(failure(FailureCode::UploadFailed)),
        UploadError::Header(_) => NotUploaded::Failed(failure(FailureCode::UploadFailed)),
        UploadError::Disk { .. } => NotUploaded::Failed(failure(FailureCode::DiskFailed)),
    }
}

fn disk(error: std::io::Error) -> NotRendered {
    NotRendered::Failed(JobFailure::new(FailureCode::DiskFailed, error))
}
