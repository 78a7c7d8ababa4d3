//! An engine of numbers: it takes its time at step boundaries, leaves checkpoints, fails and kills as the job says, and its clips are uploaded.

use flowai_actors::checkpoint::{CheckpointFile, CheckpointPlaced, Resume};
use flowai_actors::ids::Sha256;
use flowai_actors::manifest::{EngineInfo, Manifest, StageTimings};
use flowai_actors::messages::{ArtefactFile, Assign, Phase, ReadyFile};
use flowai_node_machine::failure::{FailureCode, JobFailure};
use flowai_node_machine::{Clip, Event, NotRendered, NotUploaded, RunId, Standing};
use rand::Rng as _;

use super::{DEVICE_CLASS, Heard, Run};
use crate::check::bad_node::BAD_NODE;
use crate::check::checks::Check;
use crate::check::coordinator::Heard as CoordinatorHeard;
use crate::check::plan::{Kind, Nature};
use crate::check::world::World;

/// Of an upload.
const UPLOAD_MS_MAX: u64 = 3_000;
/// One of so many boundaries leaves a checkpoint.
const CHECKPOINT_EVERY: u32 = 3;

impl World {
    pub(super) fn begin_run(&mut self, process: usize, run: RunId, assign: Box<Assign>) {
        let at = assign.at;
        self.checks.begun(at.job, at.attempt, process);
        let own = &self.processes[process];
        let row = self.store.row(at.job);
        let written = row.and_then(|row| row.attempts.get(at.attempt.get() as usize - 1));
        // A process may begin what its predecessor was given, before the leader knows of the change: nothing comes of it.
        let is_written =
            written.is_some_and(|row| row.node == own.id && row.generation <= own.generation.get());
        self.checks.require(Check::Lease, is_written, || {
            format!(
                "{} begins attempt {} of {}, which no row gives to it",
                own.id, at.attempt, at.job
            )
        });
        let (natural, step_ms) = self.users.nature(at.job);
        let nature = match self.plan.kind {
            Kind::BadNode(made_of_it) if self.processes[process].slot == BAD_NODE => made_of_it,
            _ => natural,
        };
        let left = assign.resume.as_ref();
        let lies_there = |kept: &&Resume| {
            let key = (at.job, kept.attempt.get(), kept.file.step);
            self.cuts.objects_refuse == 0 && self.checkpoints.contains(&key)
        };
        let step = left.filter(lies_there).map_or(0, |kept| kept.file.step);
        let run_of = Run {
            at,
            assign,
            step,
            is_stepping: false,
            has_begun: false,
            nature,
            step_ms,
            is_paused: false,
            is_stopped: false,
            is_kept: false,
            is_waiting: false,
            is_over: false,
        };
        self.processes[process].runs.insert(run.0, run_of);
        let fetch_ms = self.rng.random_range(10..1_000);
        self.for_node(process, fetch_ms, Heard::Boundary { run });
    }

    pub(super) fn control(&mut self, process: usize, id: RunId, change: impl Fn(&mut Run)) {
        let Some(run) = self.processes[process].runs.get_mut(&id.0) else {
            return;
        };
        change(run);
        let goes_on = run.is_stopped || !run.is_paused;
        if goes_on && std::mem::take(&mut run.is_waiting) {
            self.for_node(process, 1, Heard::Boundary { run: id });
        }
    }

    pub(super) fn boundary(&mut self, process: usize, id: RunId) {
        let is_flaky_here = self.rng.random_range(0..3) == 0;
        let Some(run) = self.processes[process].runs.get_mut(&id.0) else {
            return;
        };
        if run.is_over {
            return;
        }
        if std::mem::take(&mut run.is_stepping) {
            run.step += 1;
            self.say_step(process, id);
            self.checkpoint_on_the_way(process, id);
        }
        let Some(run) = self.processes[process].runs.get_mut(&id.0) else {
            return;
        };
        if run.is_stopped {
            run.is_over = true;
            let is_kept = run.is_kept;
            self.rendered(process, id, Err(NotRendered::Stopped));
            if is_kept {
                self.leave_checkpoint(process, id);
            }
            return;
        }
        if run.is_paused {
            run.is_waiting = true;
            return;
        }
        let fail = |code| {
            Err(NotRendered::Failed(JobFailure::new(
                code,
                "the simulator says so",
            )))
        };
        let (step, steps) = (run.step, run.assign.spec.steps);
        match run.nature {
            Nature::Killer if step == steps / 2 => {
                let slot = self.processes[process].slot;
                self.kill_node(process);
                if self.slots[slot].process == process {
                    self.start_node_later(slot);
                }
                return;
            }
            Nature::Hanging if step == 1 => return,
            Nature::Bad => {
                run.is_over = true;
                return self.rendered(process, id, fail(FailureCode::InvalidImage));
            }
            Nature::Flaky if is_flaky_here => {
                run.is_over = true;
                return self.rendered(process, id, fail(FailureCode::EngineFailed));
            }
            _ if step == steps => {
                run.is_over = true;
                let at = run.assign.clone();
                // Nobody is charged for what takes no time.
                let denoise_ms = run.step_ms as f64 * f64::from(steps);
                let clip = self.clip(process, &at, denoise_ms);
                return self.rendered(process, id, Ok(clip));
            }
            _ => {}
        }
        run.is_stepping = true;
        let step_ms = run.step_ms;
        if !std::mem::replace(&mut run.has_begun, true) {
            self.say_step(process, id);
        }
        self.for_node(process, step_ms, Heard::Boundary { run: id });
    }

    /// So many steps are done.
    fn say_step(&mut self, process: usize, id: RunId) {
        let Some(run) = self.processes[process].runs.get(&id.0) else {
            return;
        };
        let standing = Standing {
            phase: Phase::Denoising,
            step: run.step,
            steps: run.assign.spec.steps,
            left_s: None,
        };
        self.node(process, Event::Moved { run: id, standing });
    }

    /// A run's newest checkpoint goes to the object store, if that takes it.
    fn place_checkpoint(&mut self, process: usize, id: RunId) -> Option<CheckpointFile> {
        let run = self.processes[process].runs.get(&id.0)?;
        let (at, step, steps) = (run.at, run.step, run.assign.spec.steps);
        let is_taken = self.cuts.objects_refuse == 0 && !self.chance(self.plan.upload_fails);
        let is_some = is_taken && step > 0;
        is_some.then(|| {
            self.checkpoints.insert((at.job, at.attempt.get(), step));
            CheckpointFile {
                sha256: Sha256::from_bytes([3; 32]),
                bytes: 1,
                step,
                steps,
                device_class: DEVICE_CLASS.to_owned(),
                engine: "stand-in 0".to_owned(),
                resumed: Vec::new(),
            }
        })
    }

    /// A run that was to keep what is done has come to its boundary.
    fn leave_checkpoint(&mut self, process: usize, run: RunId) {
        let checkpoint = self.place_checkpoint(process, run);
        let wait_ms = self.rng.random_range(10..UPLOAD_MS_MAX);
        self.for_node(process, wait_ms, Heard::Left { run, checkpoint });
    }

    /// Now and then a run that goes on leaves one on its way.
    fn checkpoint_on_the_way(&mut self, process: usize, run: RunId) {
        if self.rng.random_range(0..CHECKPOINT_EVERY) > 0 {
            return;
        }
        let Some(file) = self.place_checkpoint(process, run) else {
            return;
        };
        let own = &self.processes[process];
        let (Some(to), Some(run)) = (own.link, own.runs.get(&run.0)) else {
            return;
        };
        let placed = CheckpointPlaced { at: run.at, file };
        self.tell(process, to, || CoordinatorHeard::Placed {
            from: process,
            placed: placed.clone(),
        });
    }

    fn rendered(&mut self, process: usize, run: RunId, result: Result<Clip, NotRendered>) {
        self.node(process, Event::Rendered { run, result });
    }

    pub(super) fn clip(&self, process: usize, assign: &Assign, denoise_ms: f64) -> Clip {
        let own = &self.processes[process];
        let at = assign.at;
        let mut hash = [0; 32];
        hash[..16].copy_from_slice(&at.job.as_uuid().into_bytes());
        hash[16..20].copy_from_slice(&at.attempt.get().to_be_bytes());
        let sha256 = Sha256::from_bytes(hash);
        let file = |file: ArtefactFile| ReadyFile {
            file,
            sha256,
            bytes: 1,
        };
        Clip {
            files: ArtefactFile::of_render(false)
                .into_iter()
                .map(file)
                .collect(),
            manifest: Box::new(Manifest {
                manifest_version: Manifest::VERSION,
                job: at.job,
                attempt: at.attempt,
                epoch: at.epoch,
                node: own.id.clone(),
                generation: own.generation,
                spec: assign.spec.clone(),
                model_sha256: assign.model_sha256,
                adapters: Vec::new(),
                keyframe: None,
                resumed: Vec::new(),
                engine: EngineInfo {
                    name: "stand-in".to_owned(),
                    version: "0".to_owned(),
                    libtorch: None,
                    encoder: "none".to_owned(),
                    dtype: "float32".to_owned(),
                    noise_dtype: "float32".to_owned(),
                },
                device_class: DEVICE_CLASS.to_owned(),
                clip_sha256: sha256,
                clip_bytes: 1,
                timings_ms: StageTimings {
                    denoise: denoise_ms,
                    ..StageTimings::default()
                },
            }),
        }
    }

    pub(super) fn upload(&mut self, process: usize, run: RunId) {
        let is_taken = self.cuts.objects_refuse == 0 && !self.chance(self.plan.upload_fails);
        let wait_ms = self.rng.random_range(10..UPLOAD_MS_MAX);
        self.for_node(process, wait_ms, Heard::Uploaded { run, is_taken });
    }

    pub(super) fn uploaded(&mut self, process: usize, id: RunId, is_taken: bool) {
        let Some(run) = self.processes[process].runs.get(&id.0) else {
            return;
        };
        let at = run.at;
        let result = if is_taken {
            self.objects.insert((at.job, at.attempt.get()));
            Ok(1.0)
        } else if run.is_stopped {
            Err(NotUploaded::Stopped)
        } else if self.rng.random() {
            Err(NotUploaded::Expired("the simulator says so".to_owned()))
        } else {
            let failure = JobFailure::new(FailureCode::UploadFailed, "the simulator says so");
            Err(NotUploaded::Unreachable(failure))
        };
        self.node(process, Event::Uploaded { run: id, result });
    }
}
