//! One node on a simulated network, with a leader that the test scripts, and a real S3 server.

mod store;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowai_actors::checkpoint::{
    CheckpointFile, CheckpointPlace, CheckpointPlaced, PlaceCheckpoint, Resume,
};
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, Sha256};
use flowai_actors::kit::{OnCancel, OnFailure, TaskKind, TaskResult, Tasks};
use flowai_actors::link::{
    Envelope, Faults, LinkEvent, LinkEvents, NodeLink as _, Peer, PeerId, Request, SimLink, SimNet,
};
use flowai_actors::manifest::EngineInfo;
use flowai_actors::messages::{
    Assign, AssignAnswer, AttemptRef, Beat, BeatAnswer, Body as _, Ended, EndedAnswer,
    FirstFrameSource, Outcome, Prefetch, PrefetchStage, Progress, Register, Registered, Stop,
    UploadTargets, UploadTargetsAnswer, Verdict,
};
use flowai_actors::preview::{PlacePreview, PreviewPlace, PreviewPlaced};
use flowai_actors::spec::{FirstFrame, KeyframeSampler, KeyframeSpec, RenderSpec};
use flowai_actors::wire;
use flowai_model::safetensors::Dtype;
use flowai_model::{KeyframePreset, Preset, synthetic};
use flowai_render_node::cache::{Cache, CacheLimits, Disk};
use flowai_render_node::device::Device;
use flowai_render_node::engine::{EngineHandle, RenderEngine};
use flowai_render_node::http;
use flowai_render_node::job::{JobFolders, Workshop};
use flowai_render_node::manifest::Maker;
use flowai_render_node::models::Models;
use flowai_render_node::node::{Node, Setup};
use flowai_render_node::uploader::Uploader;
use flowai_svd::lora::HostAdapters;
use sha2::Digest as _;
use store::{Store, checkpoint_file};
use tokio::sync::{mpsc, watch};

pub(crate) use store::preview_file;

/// Far more than anything takes; a test that reaches it has failed.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// An end of which nothing is kept.
pub(crate) const STOPPED: Outcome = Outcome::Stopped { checkpoint: None };

const HEARD_MAX: usize = 4_096;

pub(crate) fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::from_bytes(sha2::Sha256::digest(bytes).into())
}

/// What the leader heard of the node, in order. Of beats the newest is kept apart.
#[derive(Debug)]
pub(crate) enum Heard {
    Register(Register),
    Progress(Progress),
    Targets(UploadTargets),
    Preview(PreviewPlaced),
    PreviewRefused,
    Checkpoint(CheckpointPlaced),
    Ended(Box<Ended>),
}

/// How the leader answers.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) epoch: Epoch,
    /// Of whatever the node says that it works on.
    pub(crate) verdict: Verdict,
    pub(crate) ended: EndedAnswer,
    /// So many ends are heard and not answered.
    pub(crate) ends_unanswered: u32,
    pub(crate) are_previews_taken: bool,
    pub(crate) are_checkpoints_taken: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            epoch: Epoch::new(1),
            verdict: Verdict::GoOn,
            ended: EndedAnswer::Settled,
            ends_unanswered: 0,
            are_previews_taken: true,
            are_checkpoints_taken: true,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum KitTask {
    Network,
    Leader,
}

impl TaskKind for KitTask {
    fn on_cancel(self) -> OnCancel {
        OnCancel::Abort
    }

    fn on_failure(self) -> OnFailure {
        OnFailure::EndProcess
    }
}

/// How a node keeps its runs.
pub(crate) struct Keeping {
    pub(crate) every: Duration,
    pub(crate) device_class: &'static str,
}

/// The node, its network, its leader.
pub(crate) struct Farm {
    pub(crate) net: SimNet,
    pub(crate) store: Store,
    pub(crate) node: Node,
    pub(crate) policy: Arc<Mutex<Policy>>,
    pub(crate) models: Arc<Models>,
    pub(crate) engine: EngineHandle,
    hub: SimLink,
    heard: mpsc::Receiver<Heard>,
    beat: watch::Receiver<Option<Beat>>,
    tasks: Tasks,
    folder: tempfile::TempDir,
}

pub(crate) fn leader_id() -> PeerId {
    "c1.coordinator".parse().unwrap()
}

pub(crate) fn node_id() -> PeerId {
    "n1.node".parse().unwrap()
}

fn peer(id: PeerId) -> Peer {
    Peer {
        id,
        generation: Generation::new(1),
        build: "test".to_owned(),
        schema: wire::SCHEMA,
    }
}

impl Farm {
    /// Links are up. The models folder holds tiny random models: `tiny` for clips and `words` for keyframes. The engine reads no
    /// adapters.
    pub(crate) async fn start<E: RenderEngine + 'static>(
        faults: Faults,
        name: &str,
        make: impl FnOnce() -> E + Send + 'static,
    ) -> Self {
        Self::start_with(faults, name, None, make).await
    }

    /// The same with memory for adapters, which the engine shares.
    pub(crate) async fn start_with<E: RenderEngine + 'static>(
        faults: Faults,
        name: &str,
        host_adapters: Option<HostAdapters>,
        make: impl FnOnce() -> E + Send + 'static,
    ) -> Self {
        let keeping = Keeping {
            every: LONG,
            device_class: "a class",
        };
        Self::start_keeping(faults, name, keeping, host_adapters, make).await
    }

    /// The same, which keeps its runs so often and is of this device class.
    pub(crate) async fn start_keeping<E: RenderEngine + 'static>(
        faults: Faults,
        name: &str,
        keeping: Keeping,
        host_adapters: Option<HostAdapters>,
        make: impl FnOnce() -> E + Send + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::start(&folder.path().join("s3")).await;
        let models_dir = folder.path().join("models");
        let model = models_dir.join("tiny");
        std::fs::create_dir_all(&model).unwrap();
        synthetic::write_model(&model, &Preset::Tiny.config(), 1, Dtype::F32).unwrap();
        let model = models_dir.join("words");
        let config = KeyframePreset::Tiny.config();
        synthetic::write_stable_diffusion(&model, &config, 2, Dtype::F32).unwrap();
        let models = Arc::new(Models::scan(&models_dir, folder.path()).unwrap());

        let client = http::client().unwrap();
        let limits = CacheLimits {
            bytes_max: 64 << 20,
            file_bytes_max: 16 << 20,
        };
        let disk = Disk::default();
        let cache =
            |name| Cache::open(&disk, &folder.path().join(name), limits, client.clone()).unwrap();
        let engine = EngineHandle::start(make).unwrap();
        let workshop = Workshop {
            models: models.clone(),
            pictures: cache("pictures"),
            adapters: cache("adapters"),
            checkpoints: cache("checkpoints"),
            host_adapters,
            uploader: Uploader::new().unwrap(),
            engine: engine.clone(),
            folders: JobFolders::open(&disk, &folder.path().join("jobs")).unwrap(),
            pace: Arc::default(),
            preview_steps: 1,
            checkpoint_every: keeping.every,
        };
        let setup = Setup {
            maker: Maker {
                node: "n1".parse().unwrap(),
                generation: Generation::new(1),
                engine: EngineInfo {
                    name: name.to_owned(),
                    version: "test".to_owned(),
                    libtorch: None,
                    encoder: "test".to_owned(),
                    dtype: "float32".to_owned(),
                    noise_dtype: "float32".to_owned(),
                },
                device_class: keeping.device_class.to_owned(),
            },
            version: "test".to_owned(),
            device: Device {
                name: "test".to_owned(),
                memory_bytes: 1,
            },
        };

        let net = SimNet::new(7, faults);
        let (hub, hub_events) = net.attach(peer(leader_id()), wire::may_send);
        let (link, events) = net.attach(peer(node_id()), wire::may_send);
        let tasks = Tasks::new();
        let followed = net.clone();
        tasks.spawn(KitTask::Network, |_| async move {
            followed.follow_tokio().await;
            Ok(())
        });
        let policy = Arc::new(Mutex::new(Policy::default()));
        let (hears, heard) = mpsc::channel(HEARD_MAX);
        let (beats, beat) = watch::channel(None);
        let leader = Leader {
            policy: policy.clone(),
            store: store.clone(),
            hears,
            beats,
        };
        tasks.spawn(KitTask::Leader, |_| leader.lead(hub_events));
        let node = Node::start(setup, workshop, Arc::new(link), events, tasks.clone())
            .await
            .unwrap();
        assert!(net.connect(&leader_id(), &node_id()));
        Self {
            net,
            store,
            node,
            policy,
            models,
            engine,
            hub,
            heard,
            beat,
            tasks,
            folder,
        }
    }

    /// Cuts the link and brings up a new one, as when another leader takes over.
    pub(crate) fn relink(&self) {
        self.hub.disconnect(&node_id());
        assert!(self.net.connect(&leader_id(), &node_id()));
    }

    /// A job for the tiny model, with its picture and adapters in the store.
    pub(crate) async fn job(&self, image: &[u8], adapters: &[(&[u8], f32)]) -> Assign {
        let image = self.store.put(image).await;
        let (uses, sources) = self.store.put_adapters(adapters).await;
        let model = "tiny".parse().unwrap();
        Assign {
            at: AttemptRef {
                job: JobId::generate(),
                attempt: Attempt::new(1),
                epoch: self.policy().epoch,
            },
            model_sha256: self.models.get(&model).unwrap().offer.sha256,
            spec: RenderSpec {
                adapters: uses,
                frames: 3,
                fps: 6,
                height: 32,
                steps: 4,
                seed: 42,
                ..RenderSpec::small(model, image.sha256)
            },
            first_frame: FirstFrameSource::Image(image),
            adapters: sources,
            resume: None,
        }
    }

    /// The same with a picture made from words, by `words` with its own adapters.
    pub(crate) async fn keyframe_job(
        &self,
        prompt: &str,
        keyframe_adapters: &[(&[u8], f32)],
        adapters: &[(&[u8], f32)],
    ) -> Assign {
        let model = "words".parse().unwrap();
        let model_sha256 = self.models.get(&model).unwrap().offer.sha256;
        let (uses, sources) = self.store.put_adapters(keyframe_adapters).await;
        let mut job = self.job(b"not looked at", adapters).await;
        job.first_frame = FirstFrameSource::Keyframe {
            model_sha256,
            adapters: sources,
        };
        job.spec.first_frame = FirstFrame::Keyframe(Box::new(KeyframeSpec {
            model,
            prompt: prompt.into(),
            negative_prompt: "a blurred one".into(),
            adapters: uses,
            width: 40,
            height: 24,
            steps: 3,
            sampler: KeyframeSampler::Ddim,
            guidance_scale: 7.5,
            seed: 5,
        }));
        job
    }

    /// Where the node keeps an adapter.
    pub(crate) fn adapter_file(&self, sha256: Sha256) -> PathBuf {
        self.folder.path().join("adapters").join(sha256.to_string())
    }

    /// How many jobs have files on the node's disk.
    pub(crate) fn job_folders(&self) -> usize {
        let jobs = std::fs::read_dir(self.folder.path().join("jobs"));
        jobs.unwrap().count()
    }

    pub(crate) fn policy(&self) -> Policy {
        self.policy.lock().unwrap().clone()
    }

    pub(crate) fn set_policy(&self, change: impl FnOnce(&mut Policy)) {
        change(&mut self.policy.lock().unwrap());
    }

    /// Asks until there is an answer, as the leader does.
    pub(crate) async fn assign(&self, assign: &Assign) -> AssignAnswer {
        self.ask(assign).await
    }

    pub(crate) async fn stop(&self, at: AttemptRef) -> bool {
        self.ask(&Stop { at, keep: false }).await
    }

    /// Stops a job that goes on elsewhere.
    pub(crate) async fn stop_and_keep(&self, at: AttemptRef) -> bool {
        self.ask(&Stop { at, keep: true }).await
    }

    /// The next attempt of a job of `before`, here, from what its first attempt left there.
    pub(crate) async fn resumed(
        &self,
        before: &Self,
        job: &Assign,
        file: CheckpointFile,
    ) -> Assign {
        let bytes = before
            .store
            .artefact(job.at, &checkpoint_file(file.step))
            .await;
        assert_eq!(
            (sha256(&bytes), bytes.len() as u64),
            (file.sha256, file.bytes)
        );
        let mut next = job.clone();
        next.at.attempt = job.at.attempt.next();
        next.resume = Some(Resume {
            attempt: job.at.attempt,
            source: self.store.put(&bytes).await,
            file,
        });
        next
    }

    /// Tells the node what comes next, as the leader does.
    pub(crate) fn foretell(&self, next: &Assign) {
        let hint = Prefetch {
            job: next.at.job,
            stages: stages(next),
        };
        let envelope = wire::seal(self.policy().epoch, &hint).unwrap();
        self.hub.send(&node_id(), envelope).unwrap();
    }

    /// The first beat from now on that is as wanted.
    pub(crate) async fn hear_beat(&self, is: impl Fn(&Beat) -> bool) -> Beat {
        let mut beats = self.beat.clone();
        beats.mark_unchanged();
        let hearing = async {
            loop {
                beats.changed().await.expect("leader has ended");
                let beat = beats.borrow_and_update().clone();
                if let Some(beat) = beat.filter(|beat| is(beat)) {
                    return beat;
                }
            }
        };
        let heard = tokio::time::timeout(LONG, hearing).await;
        heard.expect("no such beat in time")
    }

    async fn ask<Q: wire::Question + Sync>(&self, question: &Q) -> Q::Answer {
        let (epoch, node) = (self.policy().epoch, node_id());
        let deadline = Duration::from_secs(1);
        let asking = async {
            loop {
                let asked = wire::ask(&self.hub, &node, epoch, question, deadline);
                match asked.await {
                    Ok(answer) => return answer,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(LONG, asking).await.unwrap()
    }

    /// The next thing heard for which `wanted` has an answer; what comes before it is passed over.
    pub(crate) async fn hear<T>(&mut self, wanted: impl Fn(&Heard) -> Option<T>) -> T {
        let hearing = async {
            loop {
                let heard = self.heard.recv().await.expect("leader has ended");
                if let Some(found) = wanted(&heard) {
                    return found;
                }
            }
        };
        tokio::select! {
            found = tokio::time::timeout(LONG, hearing) => found.expect("not heard in time"),
            failed = self.tasks.failed() => panic!("{failed}"),
        }
    }

    pub(crate) async fn hear_register(&mut self) -> Register {
        self.hear(|heard| match heard {
            Heard::Register(register) => Some(register.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn hear_progress(&mut self, is: impl Fn(&Progress) -> bool) -> Progress {
        self.hear(|heard| match heard {
            Heard::Progress(progress) if is(progress) => Some(progress.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn hear_preview(&mut self) -> PreviewPlaced {
        self.hear(|heard| match heard {
            Heard::Preview(placed) => Some(*placed),
            _ => None,
        })
        .await
    }

    pub(crate) async fn hear_preview_refused(&mut self) {
        self.hear(|heard| matches!(heard, Heard::PreviewRefused).then_some(()))
            .await;
    }

    pub(crate) async fn hear_checkpoint(&mut self) -> CheckpointFile {
        self.hear(|heard| match heard {
            Heard::Checkpoint(placed) => Some(placed.file.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn hear_end(&mut self) -> Ended {
        self.hear(|heard| match heard {
            Heard::Ended(ended) => Some((**ended).clone()),
            _ => None,
        })
        .await
    }
}

/// What the leader says of the job's models before it comes.
fn stages(next: &Assign) -> Vec<PrefetchStage> {
    let clip = PrefetchStage {
        model: next.spec.model.clone(),
        model_sha256: next.model_sha256,
        adapters: next.adapters.clone(),
    };
    let keyframe = match (&next.spec.first_frame, &next.first_frame) {
        (
            FirstFrame::Keyframe(keyframe),
            FirstFrameSource::Keyframe {
                model_sha256,
                adapters,
            },
        ) => Some(PrefetchStage {
            model: keyframe.model.clone(),
            model_sha256: *model_sha256,
            adapters: adapters.clone(),
        }),
        _ => None,
    };
    keyframe.into_iter().chain([clip]).collect()
}

struct Leader {
    policy: Arc<Mutex<Policy>>,
    store: Store,
    hears: mpsc::Sender<Heard>,
    beats: watch::Sender<Option<Beat>>,
}

impl Leader {
    async fn lead(self, mut events: LinkEvents) -> TaskResult {
        while let Some(event) = events.next().await {
            match event {
                LinkEvent::Message(delivery) => {
                    let envelope = &delivery.envelope;
                    let heard = match envelope.kind {
                        PreviewPlaced::KIND => Heard::Preview(wire::open(envelope)?),
                        CheckpointPlaced::KIND => Heard::Checkpoint(wire::open(envelope)?),
                        _ => Heard::Progress(wire::open(envelope)?),
                    };
                    self.hears.send(heard).await?;
                }
                LinkEvent::Request(request) => self.answer(request).await?,
                LinkEvent::Up(_)
                | LinkEvent::Down { .. }
                | LinkEvent::Unsupported { .. }
                | LinkEvent::Refused { .. } => {}
            }
        }
        Ok(())
    }

    async fn answer(&self, request: Request) -> TaskResult {
        let Request {
            envelope, reply, ..
        } = request;
        let policy = self.policy.lock().unwrap().clone();
        let verdict = |running: Option<AttemptRef>| match running {
            Some(_) => policy.verdict,
            None => Verdict::Idle,
        };
        let epoch = policy.epoch;
        let answer: Envelope = match envelope.kind {
            Register::KIND => {
                let register: Register = wire::open(&envelope)?;
                let running = verdict(register.running);
                self.hears.send(Heard::Register(register)).await?;
                wire::seal(epoch, &Registered::Welcome { epoch, running })?
            }
            Beat::KIND => {
                let beat: Beat = wire::open(&envelope)?;
                let running = verdict(beat.running);
                self.beats.send_replace(Some(beat));
                wire::seal(epoch, &BeatAnswer::Renewed { epoch, running })?
            }
            UploadTargets::KIND => {
                let question: UploadTargets = wire::open(&envelope)?;
                let targets = self.store.targets(&question).await;
                self.hears.send(Heard::Targets(question)).await?;
                wire::seal(epoch, &UploadTargetsAnswer::Targets { targets })?
            }
            PlacePreview::KIND => {
                let question = wire::open(&envelope)?;
                let place = match policy.are_previews_taken {
                    true => self.store.preview_place(&question).await,
                    false => {
                        self.hears.send(Heard::PreviewRefused).await?;
                        PreviewPlace::Refused
                    }
                };
                wire::seal(epoch, &place)?
            }
            PlaceCheckpoint::KIND => {
                let question = wire::open(&envelope)?;
                let place = match policy.are_checkpoints_taken {
                    true => self.store.checkpoint_place(&question).await,
                    false => CheckpointPlace::Refused,
                };
                wire::seal(epoch, &place)?
            }
            Ended::KIND => {
                self.hears
                    .send(Heard::Ended(Box::new(wire::open(&envelope)?)))
                    .await?;
                if policy.ends_unanswered > 0 {
                    self.policy.lock().unwrap().ends_unanswered -= 1;
                    return Ok(());
                }
                wire::seal(epoch, &policy.ended)?
            }
            _ => {
                reply.unsupported();
                return Ok(());
            }
        };
        reply.send(answer)?;
        Ok(())
    }
}
