//! Whether any kind of node has the memory for a render: what the leader has learned of that, asked now and then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowai_actors::kit::{OnCancel, OnFailure, TaskKind, Tasks};
use flowai_actors::limits::{CEILINGS_LOOK_MS, MEMORY_CEILING_MS};
use flowai_actors::spec::RenderSpec;
use flowai_actors::waiting::Ceiling;

use crate::app::App;
use crate::error::ApiError;

/// A new leader has learned nothing: one that has not answered for so long may be another by now.
const BELIEVED: Duration = Duration::from_secs(60);
/// A leader itself believes in nothing for longer.
const REMEMBERED: Duration = Duration::from_millis(MEMORY_CEILING_MS);

/// What the leader said last.
#[derive(Debug, Default)]
pub(crate) struct MemoryFit {
    heard: Arc<Mutex<Heard>>,
    tasks: Tasks,
}

/// The background work of [`MemoryFit`].
#[derive(Debug, Clone, Copy)]
enum FitTask {
    /// Asks the leader once.
    Look,
}

impl TaskKind for FitTask {
    fn on_cancel(self) -> OnCancel {
        OnCancel::Abort
    }

    fn on_failure(self) -> OnFailure {
        OnFailure::Log
    }
}

#[derive(Debug, Default)]
struct Heard {
    ceilings: Vec<Ceiling>,
    /// When it said so.
    heard_at: Option<Instant>,
    /// Since when its answers do not come.
    unanswered_since: Option<Instant>,
    /// When it was asked last.
    asked_at: Option<Instant>,
}

impl Heard {
    fn is_believed(&self) -> bool {
        let is_recent = |at: Instant| at.elapsed() < REMEMBERED;
        let is_there = |since: Instant| since.elapsed() < BELIEVED;
        self.heard_at.is_some_and(is_recent) && self.unanswered_since.is_none_or(is_there)
    }
}

impl MemoryFit {
    /// Judges by what was heard last, and has the leader asked when that is old: no submission waits for it. Who is let in for lack
    /// of news is told why it waits.
    ///
    /// # Errors
    /// `ImpossibleJob`.
    pub(super) fn check(&self, app: &App, spec: &RenderSpec) -> Result<(), ApiError> {
        let mut heard = lock(&self.heard);
        let look = Duration::from_millis(CEILINGS_LOOK_MS);
        if heard.asked_at.is_none_or(|at| at.elapsed() >= look) {
            heard.asked_at = Some(Instant::now());
            let (link, kept) = (app.link.clone(), self.heard.clone());
            // Its question has a deadline, and the next begins after that.
            self.tasks.spawn(FitTask::Look, |_| async move {
                let answer = link.ceilings().await;
                let (mut kept, now) = (lock(&kept), Instant::now());
                match answer {
                    Some(ceilings) => {
                        (kept.ceilings, kept.heard_at) = (ceilings, Some(now));
                        kept.unanswered_since = None;
                    }
                    None => drop(kept.unanswered_since.get_or_insert(now)),
                }
                Ok(())
            });
        }
        match heard.is_believed() && heard.ceilings.iter().any(|ceiling| is_over(spec, ceiling)) {
            true => Err(too_large(spec)),
            false => Ok(()),
        }
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_over(spec: &RenderSpec, ceiling: &Ceiling) -> bool {
    let volume = f64::from(spec.frames) * f64::from(spec.width) * f64::from(spec.height);
    let keyframe_model = spec.keyframe().map(|keyframe| &keyframe.model);
    // Where a clip does not fit, it does not with a first frame from words either.
    let is_of =
        ceiling.keyframe_model.is_none() || ceiling.keyframe_model.as_ref() == keyframe_model;
    spec.model == ceiling.model && is_of && volume >= ceiling.volume
}

fn too_large(spec: &RenderSpec) -> ApiError {
    let RenderSpec {
        frames,
        width,
        height,
        model,
        ..
    } = spec;
    ApiError::ImpossibleJob(format!(
        "{frames} frames of {width}x{height} need more memory than any node that offers {model} has: as many ran out of it on all \
         of them a short while ago; ask for fewer frames or pixels"
    ))
}

#[cfg(test)]
mod tests {
    use flowai_actors::ids::Sha256;
    use flowai_actors::spec::{FirstFrame, KeyframeSpec};

    use super::*;

    #[test]
    fn a_ceiling_is_believed_while_the_leader_that_said_it_may_be_there() {
        let ago = |time: Duration| Instant::now().checked_sub(time);
        let second = Duration::from_secs(1);
        for (heard, unanswered, expected) in [
            (None, None, false),
            // Nobody submitted for a while, and so nobody asked.
            (Some(10 * BELIEVED), None, true),
            (Some(10 * BELIEVED), Some(BELIEVED - second), true),
            (Some(10 * BELIEVED), Some(BELIEVED), false),
            (Some(REMEMBERED), None, false),
        ] {
            let heard = Heard {
                heard_at: heard.and_then(ago),
                unanswered_since: unanswered.and_then(ago),
                ..Heard::default()
            };
            assert_eq!(heard.is_believed(), expected, "{heard:?}");
        }
    }

    #[test]
    fn a_ceiling_is_for_its_models_and_for_what_is_as_large() {
        let clip = RenderSpec {
            frames: 10,
            width: 100,
            height: 100,
            ..RenderSpec::small("m".parse().unwrap(), Sha256::from_bytes([1; 32]))
        };
        let words = |model: &str| RenderSpec {
            first_frame: FirstFrame::Keyframe(Box::new(KeyframeSpec::small(
                model.parse().unwrap(),
                "a cat",
            ))),
            ..clip.clone()
        };
        let ceiling = |model: &str, keyframe: Option<&str>, volume| Ceiling {
            model: model.parse().unwrap(),
            keyframe_model: keyframe.map(|model| model.parse().unwrap()),
            volume,
        };
        for (spec, ceiling, expected) in [
            (clip.clone(), ceiling("m", None, 100_000.0), true),
            (clip.clone(), ceiling("m", None, 100_001.0), false),
            (clip.clone(), ceiling("other", None, 1.0), false),
            (clip.clone(), ceiling("m", Some("k"), 1.0), false),
            (words("k"), ceiling("m", None, 1.0), true),
            (words("k"), ceiling("m", Some("k"), 1.0), true),
            (words("k"), ceiling("m", Some("other"), 1.0), false),
        ] {
            assert_eq!(is_over(&spec, &ceiling), expected, "{spec:?} {ceiling:?}");
        }
    }
}
