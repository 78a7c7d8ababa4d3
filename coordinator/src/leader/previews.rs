//! Previews of running jobs: where their pictures go, who is told, and what is thrown away. Nothing here is ever waited for.

use flowai_actors::ids::NodeId;
use flowai_actors::limits::PREVIEW_BYTES_MAX;
use flowai_actors::messages::Holding;
use flowai_actors::preview::{PlacePreview, PreviewPlace, PreviewPlaced, PreviewReady};

use super::event::{Answer, Effect, ReplyId};
use super::state::{Held, State};

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
        let is_taken = (1..=PREVIEW_BYTES_MAX).contains(&question.bytes) && self.is_held(&held);
        effects.push(match is_taken {
            true => Effect::PresignPreview { reply, question },
            false => Effect::Answer(reply, Answer::Preview(PreviewPlace::Refused)),
        });
    }

    pub(super) fn preview_placed(
        &mut self,
        node: &NodeId,
        placed: PreviewPlaced,
        effects: &mut Vec<Effect>,
    ) {
        let PreviewPlaced { at, step } = placed;
        let Some(user) = self.scheduler.owner_of(at.job) else {
            return;
        };
        let Some(held) = self.held.get_mut(&at.job) else {
            return;
        };
        let is_its_own = held.holding.node == *node && held.holding.at.attempt == at.attempt;
        if !is_its_own || held.preview.is_some_and(|newest| newest >= step) {
            return;
        }
        let older = held.preview.replace(step);
        effects.extend(older.map(|step| discard(held, step)));
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

/// An attempt has ended: its picture goes. One that was placed under an earlier term stays until the video is deleted.
pub(super) fn discard_last(held: &Held) -> Option<Effect> {
    held.preview.map(|step| discard(held, step))
}

fn discard(held: &Held, step: u32) -> Effect {
    let at = held.holding.at;
    Effect::DiscardPreview {
        job: at.job,
        attempt: at.attempt,
        step,
    }
}
