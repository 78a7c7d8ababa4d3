//! The job that a node works on: its stages from rendering to the leader's last word, and what the leader must hear of it.

use flowai_actors::checkpoint::CheckpointFile;
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Epoch, Generation, NodeId};
use flowai_actors::limits::PROGRESS_INTERVAL_MS;
use flowai_actors::link::PeerId;
use flowai_actors::messages::{Assign, AttemptRef, Ended, Outcome, Phase, Progress, UploadTargets};

use crate::event::{Clip, Effect, RunId};
use crate::leaving::Pace;
use crate::run::Standing;

/// A question that is asked until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asking {
    /// The answer, or the lack of it, will be an event.
    Underway,
    At(Monotonic),
}

impl Asking {
    pub(crate) fn is_due(&self, now: Monotonic) -> bool {
        match self {
            Self::Underway => false,
            Self::At(at) => *at <= now,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) run: RunId,
    pub(crate) at: AttemptRef,
    pub(crate) stage: Stage,
    pub(crate) is_paused: bool,
    /// What it makes is not wanted.
    pub(crate) is_dropped: bool,
    /// What it left in the store, once nothing more of it goes there.
    pub(crate) left: Option<Option<CheckpointFile>>,
    pub(crate) standing: Standing,
    pub(crate) pace: Pace,
    /// `false` when `standing` is newer than what the leader heard.
    pub(crate) is_told: bool,
    told_at: Option<Monotonic>,
}

#[derive(Debug)]
pub(crate) enum Stage {
    Rendering,
    /// The files are ready; the leader says where they go.
    Placing {
        clip: Clip,
        tries: UploadTries,
        ask: Asking,
    },
    Uploading {
        clip: Clip,
        tries: UploadTries,
    },
    /// It has stopped; its last checkpoint is on its way to the store.
    Keeping,
    /// It has ended; the leader must hear it.
    Telling {
        outcome: Outcome,
        ask: Asking,
    },
}

/// What was tried to get a clip into the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UploadTries {
    /// When the clip was ready.
    pub(crate) since: Monotonic,
    /// Rounds of targets that the store did not take.
    pub(crate) refused: u32,
}

impl UploadTries {
    pub(crate) fn new(now: Monotonic) -> Self {
        Self {
            since: now,
            refused: 0,
        }
    }
}

impl Job {
    pub(crate) fn new(now: Monotonic, run: RunId, assign: &Assign) -> Self {
        Self {
            run,
            at: assign.at,
            stage: Stage::Rendering,
            is_paused: false,
            is_dropped: false,
            left: None,
            standing: Standing {
                phase: Phase::Fetching,
                step: 0,
                steps: assign.spec.steps,
                left_s: None,
            },
            pace: Pace::new(now),
            is_told: true,
            told_at: None,
        }
    }

    /// The run is this far: it came to a boundary.
    pub(crate) fn moved(&mut self, now: Monotonic, standing: Standing) {
        self.pace.boundary(now, standing.phase, standing.step);
        self.standing = standing;
        self.is_told = false;
    }

    pub(crate) fn resume(&mut self, now: Monotonic) {
        self.is_paused = false;
        self.pace.resumed(now);
    }

    /// Whether its run may still be in the engine.
    pub(crate) fn is_rendering(&self) -> bool {
        matches!(self.stage, Stage::Rendering)
    }

    /// What lies ready needs no GPU: only rendering pauses.
    pub(crate) fn can_pause(&self) -> bool {
        !self.is_paused && self.is_rendering()
    }

    pub(crate) fn progress_due(&self) -> Monotonic {
        self.told_at
            .map_or(Monotonic::default(), |at| at.plus_ms(PROGRESS_INTERVAL_MS))
    }

    /// Asks for upload targets, at this time.
    pub(crate) fn place(&mut self, at: Monotonic, clip: Clip, tries: UploadTries) {
        self.standing = Standing {
            phase: Phase::Uploading,
            step: self.standing.steps,
            left_s: None,
            ..self.standing
        };
        self.is_told = false;
        self.stage = Stage::Placing {
            clip,
            tries,
            ask: Asking::At(at),
        };
    }

    /// Lets the leader hear that it is still at it.
    pub(crate) fn still_uploading(&mut self) {
        if let Stage::Uploading { .. } = self.stage {
            self.is_told = false;
        }
    }

    /// It came to its boundary. The leader hears of it when what was done is kept, or cannot be.
    pub(crate) fn stopped(&mut self, now: Monotonic) {
        if self.is_dropped {
            return self.tell(now, Outcome::Stopped { checkpoint: None });
        }
        match self.left.take() {
            Some(checkpoint) => self.tell(now, Outcome::Stopped { checkpoint }),
            None => self.stage = Stage::Keeping,
        }
    }

    /// Nothing more of its checkpoints goes to the store.
    pub(crate) fn left(&mut self, now: Monotonic, checkpoint: Option<CheckpointFile>) {
        match self.stage {
            Stage::Keeping => self.tell(now, Outcome::Stopped { checkpoint }),
            Stage::Rendering => self.left = Some(checkpoint),
            Stage::Placing { .. } | Stage::Uploading { .. } | Stage::Telling { .. } => {}
        }
    }

    /// Its boundary, or the store, is not waited for any longer. What lies in the store the leader has heard of.
    pub(crate) fn abandon(&mut self, now: Monotonic) {
        if !matches!(self.stage, Stage::Telling { .. }) {
            let checkpoint = self.left.take().flatten();
            self.tell(now, Outcome::Stopped { checkpoint });
        }
    }

    pub(crate) fn tell(&mut self, now: Monotonic, outcome: Outcome) {
        // The end says it all.
        self.is_told = true;
        self.stage = Stage::Telling {
            outcome,
            ask: Asking::At(now),
        };
    }

    /// Says to the leader what is due.
    pub(crate) fn speak(
        &mut self,
        now: Monotonic,
        leader: &PeerId,
        node: &NodeId,
        generation: Generation,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_told && self.progress_due() <= now {
            self.is_told = true;
            self.told_at = Some(now);
            let Standing {
                phase,
                step,
                steps,
                left_s,
            } = self.standing;
            effects.push(Effect::SendProgress {
                to: leader.clone(),
                progress: Progress {
                    at: self.at,
                    phase,
                    step,
                    steps,
                    left_s,
                },
            });
        }
        let (run, at) = (self.run, self.at);
        match &mut self.stage {
            Stage::Rendering | Stage::Uploading { .. } | Stage::Keeping => {}
            Stage::Placing { clip, ask, .. } => {
                if ask.is_due(now) {
                    *ask = Asking::Underway;
                    effects.push(Effect::AskTargets {
                        to: leader.clone(),
                        run,
                        question: UploadTargets {
                            at,
                            node: node.clone(),
                            generation,
                            files: clip.files.clone(),
                        },
                    });
                }
            }
            Stage::Telling { outcome, ask } => {
                if ask.is_due(now) {
                    *ask = Asking::Underway;
                    effects.push(Effect::Tell {
                        to: leader.clone(),
                        run,
                        ended: Box::new(Ended {
                            at,
                            node: node.clone(),
                            generation,
                            outcome: under_term(outcome.clone(), at.epoch),
                        }),
                    });
                }
            }
        }
    }
}

/// A clip ends under the term that settles it, which may be a later one than that under which it was rendered.
fn under_term(mut outcome: Outcome, epoch: Epoch) -> Outcome {
    if let Outcome::Rendered { manifest, .. } = &mut outcome {
        manifest.epoch = epoch;
    }
    outcome
}
