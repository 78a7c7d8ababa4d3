//! Videos and models as OpenAI's clients read them.

use flowai_actors::ids::UserId;
use flowai_actors::messages::{LiveState, Phase};
use flowai_actors::state::JobState;
use flowai_store::models::Model;
use flowai_store::videos::Video;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::videos::present;

/// The share of a render that its steps are, for people who watch a percentage.
const STEPS_PERCENT: u32 = 90;
/// Of them, those of a first frame that is made from the prompt.
const KEYFRAME_PERCENT: u32 = 20;

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VideoObject {
    id: String,
    #[schema(example = "video")]
    object: &'static str,
    model: String,
    /// `queued`, `in_progress`, `completed` or `failed`.
    #[schema(example = "in_progress")]
    status: &'static str,
    /// 0..=100.
    progress: u32,
    /// Unix seconds, as all times here.
    created_at: i64,
    completed_at: Option<i64>,
    expires_at: Option<i64>,
    #[schema(example = "1024x576")]
    size: String,
    #[schema(example = "4")]
    seconds: String,
    prompt: String,
    remixed_from_video_id: Option<String>,
    error: Option<VideoFailure>,
}

#[derive(Debug, Serialize, ToSchema)]
struct VideoFailure {
    code: String,
    message: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VideoPage {
    #[schema(example = "list")]
    pub(super) object: &'static str,
    pub(super) data: Vec<VideoObject>,
    pub(super) first_id: Option<String>,
    pub(super) last_id: Option<String>,
    pub(super) has_more: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeletedVideo {
    pub(super) id: String,
    #[schema(example = "video.deleted")]
    pub(super) object: &'static str,
    pub(super) deleted: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelObject {
    id: String,
    #[schema(example = "model")]
    object: &'static str,
    created: i64,
    owned_by: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelPage {
    #[schema(example = "list")]
    pub(super) object: &'static str,
    pub(super) data: Vec<ModelObject>,
}

impl From<Model> for ModelObject {
    fn from(model: Model) -> Self {
        Self {
            id: model.offer.id.to_string(),
            object: "model",
            created: model.updated_at.timestamp(),
            owned_by: "flowai",
        }
    }
}

impl VideoObject {
    pub(super) fn of(app: &App, user: UserId, video: &Video) -> Self {
        let spec = &video.spec;
        let failure = present(app, user, video).error.map(|error| VideoFailure {
            code: error.code,
            message: error.detail,
        });
        let (status, progress, error) = match video.state {
            JobState::Queued => ("queued", 0, None),
            JobState::Running => ("in_progress", progress(app, user, video), None),
            JobState::Done => ("completed", 100, None),
            JobState::Failed | JobState::Quarantined => (
                "failed",
                0,
                failure.or_else(|| ended("failed", "the render failed")),
            ),
            JobState::Cancelled => ("failed", 0, ended("cancelled", "the video was cancelled")),
        };
        Self {
            id: video.id.to_string(),
            object: "video",
            model: spec.model.to_string(),
            status,
            progress,
            created_at: video.created_at.timestamp(),
            completed_at: video
                .finished_at
                .filter(|_| video.state == JobState::Done)
                .map(|at| at.timestamp()),
            expires_at: None,
            size: format!("{}x{}", spec.width, spec.height),
            seconds: seconds(spec.frames, spec.fps),
            prompt: video.prompt.clone(),
            remixed_from_video_id: video.parent.map(|parent| parent.to_string()),
            error,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

fn ended(code: &str, message: &str) -> Option<VideoFailure> {
    Some(VideoFailure {
        code: code.to_owned(),
        message: message.to_owned(),
    })
}

fn progress(app: &App, user: UserId, video: &Video) -> u32 {
    match app.live.of(user, video.id).progress {
        Some(LiveState::Progress {
            attempt,
            phase,
            step,
            steps,
            ..
        }) if steps > 0 && attempt.get() == video.attempt => {
            percent(video.spec.keyframe().is_some(), phase, step, steps)
        }
        _ => 0,
    }
}

/// 0 to [`STEPS_PERCENT`]. It never goes back when the clip follows its first frame.
fn percent(has_keyframe: bool, phase: Phase, step: u32, steps: u32) -> u32 {
    let before = if has_keyframe { KEYFRAME_PERCENT } else { 0 };
    let (from, to) = match phase {
        Phase::Fetching | Phase::Preparing => return 0,
        Phase::Keyframe => (0, before),
        Phase::Denoising | Phase::Decoding | Phase::Uploading => (before, STEPS_PERCENT),
    };
    from + (to - from) * step.min(steps) / steps
}

/// Without a fraction where there is none; at most hundredths.
fn seconds(frames: u32, fps: u32) -> String {
    let hundredths = (f64::from(frames) / f64::from(fps.max(1)) * 100.0).round() / 100.0;
    hundredths.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_grows_from_the_first_frame_to_the_clip() {
        for (has_keyframe, phase, step, expected) in [
            (false, Phase::Denoising, 5, 45),
            (false, Phase::Decoding, 10, 90),
            (true, Phase::Fetching, 10, 0),
            (true, Phase::Keyframe, 5, 10),
            (true, Phase::Keyframe, 10, 20),
            (true, Phase::Denoising, 0, 20),
            (true, Phase::Denoising, 5, 55),
            (true, Phase::Uploading, 10, 90),
        ] {
            assert_eq!(
                percent(has_keyframe, phase, step, 10),
                expected,
                "{phase:?} {step}"
            );
        }
    }

    #[test]
    fn seconds_are_written_short() {
        for (frames, fps, text) in [(28, 7, "4"), (25, 6, "4.17"), (1, 2, "0.5"), (14, 7, "2")] {
            assert_eq!(super::seconds(frames, fps), text);
        }
    }
}
