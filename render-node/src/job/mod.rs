//! One job on its way through the node: fetch, render, upload. It decides nothing about leases; whoever runs it stops it.

mod ahead;
mod estimate;
mod folder;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flowai_actors::manifest::{FusedAdapter, StageTimings};
use flowai_actors::messages::{ArtefactFile, Assign, Phase, ReadyFile, Target};
use flowai_actors::spec::InvalidField;
use flowai_svd::lora::HostAdapters;
use futures::future::{try_join, try_join_all};
use tokio::sync::{mpsc, watch};

use crate::cache::{Cache, FetchError, Held};
use crate::encoder::{Encoded, EncodedFile};
use crate::engine::{Control, EngineError, EngineEvent, EngineHandle, Order, PreviewOrder};
use crate::failure::{FailureCode, JobFailure};
use crate::models::{LocalModel, Models};
use crate::preview::MovingPicture;
use crate::pulse::Pulse;
use crate::uploader::{UploadError, Uploader};
use estimate::Estimate;
use folder::JobFolder;

pub use estimate::Pace;
pub use folder::JobFolders;

/// Everything that rendering a job takes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Workshop {
    pub models: Arc<Models>,
    pub pictures: Cache,
    pub adapters: Cache,
    /// Where the engine finds adapters that were read and checked ahead; `None` for an engine that reads none.
    pub host_adapters: Option<HostAdapters>,
    pub uploader: Uploader,
    pub engine: EngineHandle,
    pub folders: JobFolders,
    /// How fast this machine was with earlier jobs.
    pub pace: Arc<Pace>,
    /// A preview after so many steps each; 0 for none.
    pub preview_steps: u32,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    pub phase: Phase,
    /// Steps done, 0..=steps.
    pub step: u32,
    pub steps: u32,
    /// Seconds left, as far as it can be known.
    pub left_s: Option<f64>,
}

/// A rendered clip on this machine's disk. Its files go when it is dropped.
#[derive(Debug)]
pub struct Ready {
    pub encoded: Encoded,
    pub adapters: Vec<FusedAdapter>,
    /// All stages but the upload.
    pub timings_ms: StageTimings,
    _folder: JobFolder,
}

/// Why a job gave no clip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRendered {
    Stopped,
    Failed(JobFailure),
}

/// Why files do not lie in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotUploaded {
    Stopped,
    /// The URLs are not good any more: ask for new ones.
    Expired(String),
    /// The store is down.
    Unreachable(JobFailure),
    Failed(JobFailure),
}

impl Ready {
    /// What the leader is asked to take, each of [`ArtefactFile::ALL`] once.
    pub fn files(&self) -> Vec<ReadyFile> {
        let ready = |file| {
            let EncodedFile { sha256, bytes, .. } = *self.file(file);
            ReadyFile {
                file,
                sha256,
                bytes,
            }
        };
        ArtefactFile::ALL.map(ready).to_vec()
    }

    fn file(&self, file: ArtefactFile) -> &EncodedFile {
        match file {
            ArtefactFile::Clip => &self.encoded.clip,
            ArtefactFile::Poster => &self.encoded.poster,
            ArtefactFile::Preview => &self.encoded.preview,
            ArtefactFile::Spritesheet => &self.encoded.spritesheet,
        }
    }
}

impl Workshop {
    /// Renders a job that was assigned, up to the files on this disk. `report` hears of every change, and while inputs are
    /// fetched that they still come; `previews` has the newest preview.
    pub async fn render(
        &self,
        assign: &Assign,
        control: &Control,
        previews: watch::Sender<Option<MovingPicture>>,
        report: impl Fn(Standing) + Clone + Send + Sync + 'static,
    ) -> Result<Ready, NotRendered> {
        let model = self.check(assign)?;
        let mut estimate = Estimate::new(&assign.spec, self.pace.clone());
        let fetching = estimate.standing();
        report(fetching);

        let started = Instant::now();
        let still = report.clone();
        let pulse = Pulse::new(move || still(fetching));
        let (image, adapters) = self.fetch(assign, control, &pulse).await?;
        // Held until the engine has read them; one that does not fit fails the job before the engine hears of it.
        let files: Vec<&Held> = adapters.iter().map(|(file, _)| file).collect();
        let _checked = match self.is_fused(&model, &adapters) {
            true => Vec::new(),
            false => match self.check_ahead(&model, &files).await {
                Ok(checked) => checked,
                Err(error) => {
                    drop(adapters);
                    return Err(self.not_rendered(assign, error).await);
                }
            },
        };
        let fetch_ms = started.elapsed().as_secs_f64() * 1e3;

        let folder = self.folders.make().map_err(disk)?;
        let (events, mut heard) = mpsc::channel(crate::engine::EVENTS_QUEUED_MAX);
        let order = Order {
            model,
            spec: assign.spec.clone(),
            image,
            adapters,
            out_dir: folder.path().to_owned(),
            control: control.clone(),
            previews: PreviewOrder {
                every_steps: self.preview_steps,
                newest: previews,
            },
            events,
        };
        if self.engine.render(order).await.is_err() {
            return end_with_the_process().await;
        }
        while let Some(event) = heard.recv().await {
            match event {
                EngineEvent::Began(phase) => estimate.begin(phase),
                EngineEvent::Step { done, elapsed } => estimate.step(done, elapsed),
                EngineEvent::Frame { done } => estimate.frame(done),
                EngineEvent::Ended(Ok(rendered)) => {
                    let mut timings_ms = rendered.timings_ms;
                    timings_ms.fetch = fetch_ms;
                    return Ok(Ready {
                        encoded: rendered.encoded,
                        adapters: rendered.adapters,
                        timings_ms,
                        _folder: folder,
                    });
                }
                EngineEvent::Ended(Err(error)) => {
                    return Err(self.not_rendered(assign, error).await);
                }
            }
            report(estimate.standing());
        }
        end_with_the_process().await
    }

    /// Puts the files where the targets say. Gives the time it took. `pulse` beats while that goes on.
    pub async fn upload(
        &self,
        ready: &Ready,
        targets: &[Target],
        control: &Control,
        pulse: &Pulse,
    ) -> Result<Duration, NotUploaded> {
        let mut named: Vec<_> = targets.iter().map(|target| target.file).collect();
        named.sort_by_key(|file| file.file_name());
        let mut needed = ArtefactFile::ALL;
        needed.sort_by_key(|file| file.file_name());
        if named != needed {
            let detail = "leader named other upload targets than were asked for";
            let failure = JobFailure::new(FailureCode::UploadFailed, detail);
            return Err(NotUploaded::Failed(failure));
        }
        let started = Instant::now();
        let puts = targets.iter().map(|target| {
            let path = &ready.file(target.file).path;
            self.uploader.put(target, path, pulse)
        });
        tokio::select! {
            biased;
            () = control.stopped() => Err(NotUploaded::Stopped),
            done = try_join_all(puts) => match done {
                Ok(_) => Ok(started.elapsed()),
                Err(error) => Err(not_uploaded(error)),
            }
        }
    }

    /// Whether the order can be rendered at all, before a byte is fetched.
    fn check(&self, assign: &Assign) -> Result<Arc<LocalModel>, NotRendered> {
        let invalid =
            |detail: String| NotRendered::Failed(JobFailure::new(FailureCode::InvalidSpec, detail));
        let spec = &assign.spec;
        let Some(model) = self.models.get(&spec.model) else {
            let detail = format!("model {} is not on this node", spec.model);
            return Err(NotRendered::Failed(JobFailure::new(
                FailureCode::ModelUnusable,
                detail,
            )));
        };
        spec.validate(&model.offer.limits).map_err(|fields| {
            let fields: Vec<String> = fields.iter().map(InvalidField::to_string).collect();
            invalid(fields.join("; "))
        })?;
        let named = spec.adapters.iter().map(|adapter| adapter.sha256);
        if assign.image.sha256 != spec.image || !assign.adapters.iter().map(|s| s.sha256).eq(named)
        {
            return Err(invalid(
                "sources are not those of the spec's image and adapters".to_owned(),
            ));
        }
        Ok(model.clone())
    }

    /// What rotted on this disk is discarded, and says nothing about the job.
    async fn not_rendered(&self, assign: &Assign, error: EngineError) -> NotRendered {
        let failure = match self.failed(error) {
            NotRendered::Failed(failure) => failure,
            NotRendered::Stopped => return NotRendered::Stopped,
        };
        let picture = assign.image.sha256;
        if failure.code == FailureCode::InvalidImage && !self.pictures.is_whole(picture).await {
            let detail = format!("image {picture} has rotted on this node's disk");
            return NotRendered::Failed(JobFailure::new(FailureCode::DiskFailed, detail));
        }
        NotRendered::Failed(failure)
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

    async fn fetch(
        &self,
        assign: &Assign,
        control: &Control,
        pulse: &Pulse,
    ) -> Result<(Held, Vec<(Held, f32)>), NotRendered> {
        let image = async {
            let held = self.pictures.hold(&assign.image, pulse).await;
            held.map_err(|error| not_fetched("image", &error))
        };
        let adapters = async {
            let held = self.fetch_adapters(&assign.adapters, pulse).await?;
            let weights = assign.spec.adapters.iter().map(|asked| asked.weight);
            Ok(held.into_iter().zip(weights).collect())
        };
        tokio::select! {
            biased;
            () = control.stopped() => Err(NotRendered::Stopped),
            held = try_join(image, adapters) => held,
        }
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
