//! How a wish without a picture has its first frame made from its prompt.

use flowai_actors::ids::{AdapterId, UserId};
use flowai_actors::limits::SIDE_PX_MULTIPLE;
use flowai_actors::messages::{ModelFamily, ModelOffer};
use flowai_actors::spec::{KeyframeSpec, Words};
use flowai_store::adapters::Adapter;

use super::plan::{chosen_adapters, chosen_model, uses};
use super::wish::{KeyframeSettings, Wish};
use crate::app::App;
use crate::error::{ApiError, FieldError};
use crate::models::KeyframeDefaults;

/// Of a clip from words when nobody says its size: what SVD was trained at.
const SHAPE: (u32, u32) = (16, 9);

/// A keyframe model that is offered and adapters that fit it.
pub(super) struct KeyframePlan {
    offer: ModelOffer,
    defaults: KeyframeDefaults,
    settings: KeyframeSettings,
    /// In the order of the settings.
    adapters: Vec<Adapter>,
}

impl KeyframePlan {
    pub(super) async fn of(app: &App, user: UserId, wish: &Wish) -> Result<Self, ApiError> {
        if wish.prompt.trim().is_empty() {
            let detail =
                "must name an upload; or give a prompt, from which the first frame is made";
            return Err(ApiError::field("/image", "missing", detail));
        }
        let name = wish.keyframe_model.as_deref();
        let offer = chosen_model(app, user, ModelFamily::Sd, name).await?;
        let settings = wish.keyframe.clone().unwrap_or_default();
        let pointer = "/keyframe/adapters";
        let adapters = chosen_adapters(app, user, pointer, &settings.adapters, &offer).await?;
        Ok(Self {
            defaults: KeyframeDefaults::of(&offer)?,
            offer,
            settings,
            adapters,
        })
    }

    pub(super) fn adapter_ids(&self) -> impl Iterator<Item = AdapterId> {
        self.adapters.iter().map(|adapter| adapter.id)
    }

    /// The shape of a clip whose size nobody says.
    pub(super) fn shape(&self) -> (u32, u32) {
        let KeyframeSettings { width, height, .. } = self.settings;
        width.zip(height).unwrap_or(SHAPE)
    }

    /// `clip`: the size of the clip, px.
    pub(super) fn spec(&self, wish: &Wish, clip: (u32, u32), seed: u64) -> KeyframeSpec {
        let settings = &self.settings;
        let (width, height) = self.defaults.size(clip, settings.width, settings.height);
        let negative_prompt = wish.negative_prompt.as_deref().unwrap_or_default();
        KeyframeSpec {
            model: self.offer.id.clone(),
            prompt: Words::from(wish.prompt.trim()),
            negative_prompt: Words::from(negative_prompt.trim()),
            adapters: uses(&self.adapters, &settings.adapters),
            width,
            height,
            steps: settings.steps.unwrap_or(self.defaults.steps),
            sampler: settings.sampler.unwrap_or(self.defaults.sampler).into(),
            guidance_scale: settings
                .guidance_scale
                .unwrap_or(self.defaults.guidance_scale),
            seed: settings.seed.unwrap_or(seed),
        }
    }

    /// What of the spec's size this model cannot make; what no model can is said with the rest of the spec.
    pub(super) fn size_errors(&self, spec: &KeyframeSpec) -> Vec<FieldError> {
        let multiple = self.offer.limits.side_multiple.max(1);
        let sides = [
            ("/keyframe/width", spec.width),
            ("/keyframe/height", spec.height),
        ];
        sides
            .into_iter()
            .filter(|(_, side)| side.is_multiple_of(SIDE_PX_MULTIPLE))
            .filter(|(_, side)| !side.is_multiple_of(multiple))
            .map(|(pointer, side)| {
                let detail = format!(
                    "must be a multiple of {multiple} for model {} (got {side})",
                    self.offer.id
                );
                FieldError::new(pointer, "out_of_range", detail)
            })
            .collect()
    }
}
