//! Previews of running jobs: where their pictures go, who is told, and what is thrown away. Nothing here is ever waited for.

use std::collections::BTreeSet;

use flowai_actors::ids::NodeId;
use flowai_actors::limits::{PREVIEW_BYTES_MAX, STEPS_MAX};
use flowai_actors::messages::Holding;
use flowai_actors::preview::{PlacePreview, PreviewPlace, PreviewPlaced, PreviewReady};

use super::event::{Answer, Effect, ReplyId};
use super::state::{Held, State};

/// The pictures of one attempt that may lie in the store.
#[derive(Debug, Default)]
pub(super) struct Previews {
    /// Steps whose uploads were signed in this term, and that were not thrown away; at most one for each step.
    signed: BTreeSet<u32>,
    /// The newest that was told; 0 before the first.
    newest: u32,
}

impl State {
    pub(super) fn preview_asked(
        &mut self,
        reply: ReplyId,
        question: PlacePreview,
        effects: &mut Vec<Effect>,
    ) {
        let held = Holding {
            at: question.at,
            node: question.node.clone(),
            generation: question.generation,
        };
        let is_right = (1..=PREVIEW_BYTES_MAX).contains(&question.bytes)
            && (1..=STEPS_MAX).contains(&question.step)
            && self.is_held(&held);
        let known = self.held.get_mut(&question.at.job).filter(|_| is_right);
        effects.push(match known {
            Some(held) => {
                held.previews.signed.insert(question.step);
                Effect::PresignPreview { reply, question }
            }
            None => Effect::Answer(reply, Answer::Preview(PreviewPlace::Refused)),
        });
    }

    pub(super) fn preview_placed(
        &mut self,
        node: &NodeId,
        placed: PreviewPlaced,
        effects: &mut Vec<Effect>,
    ) {
        let PreviewPlaced { at, step } = placed;
        if !(1..=STEPS_MAX).contains(&step) {
            return;
        }
        let present = self.held.get_mut(&at.job);
        let Some(held) = present.filter(|held| held.holding.at.attempt == at.attempt) else {
            // Its upload ended after its attempt, whose pictures have gone.
            effects.push(Effect::DiscardPreview {
                job: at.job,
                attempt: at.attempt,
                step,
            });
            return;
        };
        let Some(user) = self.scheduler.owner_of(at.job) else {
            return;
        };
        let previews = &mut held.previews;
        // One that was not signed in this term may be of an earlier one: it is shown as well.
        if held.holding.node != *node || previews.newest == step {
            return;
        }
        if step < previews.newest {
            // Its upload ended after a newer one had taken its place.
            effects.push(discard(&held.holding, step));
            return;
        }
        previews.newest = step;
        previews.signed.insert(step);
        let newer = previews.signed.split_off(&step);
        let older = std::mem::replace(&mut previews.signed, newer);
        effects.extend(older.into_iter().map(|step| discard(&held.holding, step)));
        if !self.apis.is_empty() {
            effects.push(Effect::TellPreview {
                to: self.apis.iter().cloned().collect(),
                ready: PreviewReady {
                    user,
                    job: at.job,
                    attempt: at.attempt,
                    step,
                },
            });
        }
    }
}

/// An attempt has ended: its pictures go. What was signed under an earlier term stays until the video is deleted.
pub(super) fn discard_all(held: &Held) -> impl Iterator<Item = Effect> {
    let signed = held.previews.signed.iter();
    signed.map(|&step| discard(&held.holding, step))
}

fn discard(held: &Holding, step: u32) -> Effect {
    Effect::DiscardPreview {
        job: held.at.job,
        attempt: held.at.attempt,
        step,
    }
}
