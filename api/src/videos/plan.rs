//! What a wish comes to: everything that it names looked up, everything that it leaves out filled in, all of it in range.

use flowai_actors::ids::{AdapterId, JobId, UploadId, UserId};
use flowai_actors::limits::{ADAPTER_WEIGHT_ABS_MAX, ADAPTERS_MAX, PROMPT_CHARS_MAX, SEED_MAX};
use flowai_actors::messages::{ModelFamily, ModelOffer};
use flowai_actors::spec::{AdapterUse, FirstFrame, InvalidField, KeyframeSpec, RenderSpec};
use flowai_actors::state::Class;
use flowai_store::adapters::{self, Adapter};
use rand::Rng;

use super::catalogue::Picture;
use super::draft;
use super::keyframe::KeyframePlan;
use super::wish::{AdapterWish, Wish};
use crate::adapters::checked_against;
use crate::app::App;
use crate::error::{ApiError, FieldError};
use crate::models::{Defaults, decode_chunk_size};

/// What a wish comes to.
pub(super) struct Plan {
    pub(super) spec: RenderSpec,
    /// Of a draft: what its final will be.
    pub(super) final_spec: Option<RenderSpec>,
    /// The picture that the spec names.
    pub(super) image: Option<UploadId>,
    /// Those of all stages.
    pub(super) adapters: Vec<AdapterId>,
    pub(super) prompt: String,
    pub(super) parent: Option<JobId>,
    pub(super) class: Class,
    pub(super) after: Option<JobId>,
}

pub(super) async fn plan(app: &App, user: UserId, wish: &Wish) -> Result<Plan, ApiError> {
    let offer = chosen_model(app, user, ModelFamily::Svd, wish.model.as_deref()).await?;
    let seed = wish
        .seed
        .unwrap_or_else(|| rand::rng().random_range(0..=SEED_MAX));
    let first_frame = first_frame(app, user, wish).await?;
    let used = chosen_adapters(app, user, "/adapters", &wish.adapters, &offer).await?;
    let full = spec_of(wish, &offer, &first_frame, &used, seed)?;
    let mut ids: Vec<AdapterId> = used.iter().map(|adapter| adapter.id).collect();
    if let FirstFrameChoice::Words(keyframe) = &first_frame {
        ids.extend(keyframe.adapter_ids());
    }
    require_one_node(app, user, &full).await?;
    let (spec, final_spec) = match wish.draft {
        false => (full, None),
        true => (draft::of(&full, &offer.limits), Some(full)),
    };
    Ok(Plan {
        spec,
        final_spec,
        image: wish.image,
        adapters: ids,
        prompt: wish.prompt.trim().to_owned(),
        parent: wish.parent,
        class: wish.class.into(),
        after: wish.after,
    })
}

/// What the clip begins with.
enum FirstFrameChoice {
    Picture(Picture),
    Words(Box<KeyframePlan>),
}

async fn first_frame(app: &App, user: UserId, wish: &Wish) -> Result<FirstFrameChoice, ApiError> {
    let Some(image) = wish.image else {
        let keyframe = KeyframePlan::of(app, user, wish).await?;
        return Ok(FirstFrameChoice::Words(Box::new(keyframe)));
    };
    let of_words = [
        ("/negative_prompt", wish.negative_prompt.is_some()),
        ("/keyframe_model", wish.keyframe_model.is_some()),
        ("/keyframe", wish.keyframe.is_some()),
    ];
    if let Some((pointer, _)) = of_words.into_iter().find(|(_, is_given)| *is_given) {
        let detail =
            "is for a first frame that is made from the prompt; leave it out, or the image";
        return Err(ApiError::field(pointer, "conflict", detail));
    }
    let picture = app.catalogue.picture(&app.database, user, image).await?;
    Ok(FirstFrameChoice::Picture(picture))
}

/// The model of this name, or the only one of its family.
pub(super) async fn chosen_model(
    app: &App,
    user: UserId,
    family: ModelFamily,
    name: Option<&str>,
) -> Result<ModelOffer, ApiError> {
    let pointer = pointer_of(family);
    let Some(name) = name else {
        let offers = app.catalogue.offers(&app.database, user).await?;
        let mut of_family = offers.iter().filter(|offer| offer.family == family);
        return match (of_family.next(), of_family.next(), family) {
            (Some(only), None, _) => Ok(only.clone()),
            (Some(_), Some(_), _) => {
                let detail = "must be given: the farm offers several models";
                Err(ApiError::field(pointer, "missing", detail))
            }
            (None, _, ModelFamily::Svd) => Err(ApiError::ImpossibleJob(
                "no model is offered yet".to_owned(),
            )),
            (None, _, ModelFamily::Sd) => {
                let detail = "must name an upload: the farm offers no keyframe model, which would make one from the prompt";
                Err(ApiError::field("/image", "missing", detail))
            }
        };
    };
    let unknown = || {
        let name: String = name.chars().take(64).collect();
        ApiError::ImpossibleJob(format!("model {name:?} is not offered; see /v1/models"))
    };
    let id = name.parse().map_err(|_| unknown())?;
    let offer = app.catalogue.offer(&app.database, user, &id).await?;
    let offer = offer.ok_or_else(unknown)?;
    if offer.family == family {
        return Ok(offer);
    }
    let (makes, as_what) = match offer.family {
        ModelFamily::Svd => ("clips", "model"),
        ModelFamily::Sd => ("keyframes", "keyframe_model"),
    };
    let detail = format!("names a model that makes {makes}; give {id} as {as_what}");
    Err(ApiError::field(pointer, "invalid", detail))
}

/// Both stages are made by one node (`docs/adr/0012`).
async fn require_one_node(app: &App, user: UserId, spec: &RenderSpec) -> Result<(), ApiError> {
    let Some(KeyframeSpec {
        model: keyframe, ..
    }) = spec.keyframe()
    else {
        return Ok(());
    };
    let (database, clip) = (&app.database, &spec.model);
    if app
        .catalogue
        .are_together(database, user, clip, keyframe)
        .await?
    {
        return Ok(());
    }
    let detail = format!(
        "no node offers both {clip} and {keyframe}: choose models that one node offers, or give an image"
    );
    Err(ApiError::ImpossibleJob(detail))
}

const fn pointer_of(family: ModelFamily) -> &'static str {
    match family {
        ModelFamily::Svd => "/model",
        ModelFamily::Sd => "/keyframe_model",
    }
}

/// In the order of the wish. A missing or foreign one is named: nothing is rendered without it (invariant 10).
pub(super) async fn chosen_adapters(
    app: &App,
    user: UserId,
    pointer: &str,
    wishes: &[AdapterWish],
    offer: &ModelOffer,
) -> Result<Vec<Adapter>, ApiError> {
    if wishes.len() > ADAPTERS_MAX {
        let detail = format!("at most {ADAPTERS_MAX} may be given (got {})", wishes.len());
        return Err(ApiError::field(pointer, "length", detail));
    }
    if wishes.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<AdapterId> = wishes.iter().map(|w| AdapterId::from_uuid(w.id)).collect();
    let mut transaction = app.database.begin_as(user).await?;
    let found = adapters::find(&mut transaction, &ids).await?;
    ids.iter()
        .map(|id| {
            let adapter = found.iter().find(|adapter| adapter.id == *id);
            let adapter =
                adapter.ok_or_else(|| ApiError::NamedNotFound(format!("adapter {id}")))?;
            checked_against(adapter, offer)?;
            Ok(adapter.clone())
        })
        .collect()
}

pub(super) fn uses(adapters: &[Adapter], wishes: &[AdapterWish]) -> Vec<AdapterUse> {
    let uses = adapters.iter().zip(wishes);
    uses.map(|(adapter, wish)| AdapterUse {
        sha256: adapter.sha256,
        weight: wish.weight,
    })
    .collect()
}

/// The whole spec, all of whose fields are in range.
fn spec_of(
    wish: &Wish,
    offer: &ModelOffer,
    first_frame: &FirstFrameChoice,
    adapters: &[Adapter],
    seed: u64,
) -> Result<RenderSpec, ApiError> {
    let defaults = Defaults::of(offer)?;
    let (frames, fps) = timing(wish, &defaults, offer.limits.frames_max);
    let shape = match first_frame {
        FirstFrameChoice::Picture(picture) => picture.size,
        FirstFrameChoice::Words(keyframe) => keyframe.shape(),
    };
    let (width, height) = defaults.size(shape, wish.width, wish.height);
    let mut errors = Vec::new();
    let first_frame = match first_frame {
        FirstFrameChoice::Picture(picture) => {
            errors.extend(prompt_errors(&wish.prompt));
            FirstFrame::Image(picture.sha256)
        }
        FirstFrameChoice::Words(keyframe) => {
            let spec = keyframe.spec(wish, (width, height), seed);
            errors.extend(keyframe.size_errors(&spec));
            FirstFrame::Keyframe(Box::new(spec))
        }
    };
    let spec = RenderSpec {
        model: offer.id.clone(),
        first_frame,
        adapters: uses(adapters, &wish.adapters),
        frames,
        fps,
        width,
        height,
        steps: wish.steps.unwrap_or(defaults.steps),
        motion_bucket_id: wish.motion_bucket_id.unwrap_or(defaults.motion_bucket_id),
        noise_aug_strength: wish
            .noise_aug_strength
            .unwrap_or(defaults.noise_aug_strength),
        min_guidance_scale: wish
            .min_guidance_scale
            .unwrap_or(defaults.min_guidance_scale),
        max_guidance_scale: wish
            .max_guidance_scale
            .unwrap_or(defaults.max_guidance_scale),
        decode_chunk_size: wish
            .decode_chunk_size
            .unwrap_or_else(|| decode_chunk_size(frames)),
        seed,
    };
    errors.splice(0..0, invalid_fields(&spec, offer));
    if errors.is_empty() {
        Ok(spec)
    } else {
        Err(ApiError::ValidationFailed(errors))
    }
}

/// What of a spec the model cannot make.
pub(super) fn invalid_fields(spec: &RenderSpec, offer: &ModelOffer) -> Vec<FieldError> {
    match spec.validate(&offer.limits) {
        Ok(()) => Vec::new(),
        Err(invalid) => invalid.into_iter().map(field_error).collect(),
    }
}

/// Of a prompt that is kept beside a picture: the one of a keyframe is checked as part of the spec.
fn prompt_errors(prompt: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let length = prompt.trim().chars().count();
    if length > PROMPT_CHARS_MAX {
        let detail = format!("must be at most {PROMPT_CHARS_MAX} characters long (got {length})");
        errors.push(FieldError::new("/prompt", "length", detail));
    }
    if prompt.contains('\0') {
        errors.push(FieldError::new("/prompt", "invalid", "must not hold NUL"));
    }
    errors
}

/// Frames and their rate. Seconds are met by as many frames as the model makes, shown slower when that is too few.
fn timing(wish: &Wish, defaults: &Defaults, frames_max: u32) -> (u32, u32) {
    match (wish.frames, wish.seconds) {
        (None, Some(seconds)) => {
            let fps = wish.fps.unwrap_or(defaults.fps);
            let frames = (seconds * f64::from(fps)).round() as u32;
            if frames <= frames_max || wish.fps.is_some() {
                (frames, fps)
            } else {
                let slower = (f64::from(frames_max) / seconds).round().max(1.0) as u32;
                (frames_max, slower)
            }
        }
        (frames, _) => (
            frames.unwrap_or(defaults.frames),
            wish.fps.unwrap_or(defaults.fps),
        ),
    }
}

/// `adapters[1].weight` is `/adapters/1/weight`.
fn field_error(invalid: InvalidField) -> FieldError {
    let mut pointer = String::with_capacity(invalid.field.len() + 1);
    pointer.push('/');
    for character in invalid.field.chars() {
        match character {
            '[' | '.' => pointer.push('/'),
            ']' => {}
            other => pointer.push(other),
        }
    }
    FieldError::new(pointer, "out_of_range", invalid.detail)
}

const _: () = assert!(ADAPTER_WEIGHT_ABS_MAX >= 1.0, "as trained is in range");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_pointers() {
        for (field, pointer) in [
            ("frames", "/frames"),
            ("adapters[1].weight", "/adapters/1/weight"),
            ("adapters[10]", "/adapters/10"),
        ] {
            let invalid = InvalidField {
                field: field.to_owned(),
                detail: String::new(),
            };
            assert_eq!(field_error(invalid).pointer, pointer);
        }
    }

    #[test]
    fn seconds_are_met_as_well_as_the_model_can() {
        let unet = flowai_model::Preset::FullSvd.config().unet;
        let offer = ModelOffer {
            id: "m".parse().unwrap(),
            sha256: flowai_actors::ids::Sha256::from_bytes([0; 32]),
            family: ModelFamily::Svd,
            unet_config: unet.to_json(),
            text_encoder_config: None,
            limits: flowai_actors::spec::SpecLimits {
                side_multiple: 64,
                frames_max: 25,
            },
        };
        let defaults = Defaults::of(&offer).unwrap();
        let check = |frames, fps, seconds, expected| {
            let wish = Wish {
                frames,
                fps,
                seconds,
                ..Wish::default()
            };
            assert_eq!(timing(&wish, &defaults, 25), expected);
        };
        check(None, None, None, (25, 7));
        check(None, None, Some(2.0), (14, 7));
        check(None, None, Some(4.0), (25, 6));
        check(None, None, Some(8.0), (25, 3));
        check(None, None, Some(1_000.0), (25, 1));
        // Whoever says both gets what they said, or an error.
        check(None, Some(24), Some(4.0), (96, 24));
        check(Some(3), None, Some(4.0), (3, 7));
    }
}
