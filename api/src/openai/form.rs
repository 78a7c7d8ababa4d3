//! The wish in OpenAI's words, from JSON or a form. Beside theirs (`prompt, model, size, seconds, input_reference`) the
//! native fields are understood, and the names that vLLM-Omni gives some of them.

use axum::extract::Multipart;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use flowai_actors::ids::UploadId;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::fields::Fields;
use super::routes::BODY_BYTES_MAX;
use crate::error::ApiError;
use crate::http::read_json;
use crate::uploads::{IncomingFile, broken, receive_file, receive_text};
use crate::videos::{AdapterWish, KeyframeSettings, Wish};

/// A picture by reference.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reference {
    /// An upload.
    file_id: Option<Uuid>,
    /// `data:image/…;base64,…`; no address is ever fetched.
    image_url: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateRequest {
    #[serde(default)]
    prompt: String,
    model: Option<String>,
    /// Width times height, as in `1024x576`.
    size: Option<String>,
    /// As text or as a number.
    #[schema(value_type = Option<String>)]
    seconds: Option<Value>,
    /// The picture; in a form also a file.
    input_reference: Option<Reference>,
    /// The picture as a native upload.
    image: Option<Uuid>,
    /// What a first frame from the prompt shall not show.
    negative_prompt: Option<String>,
    /// What makes the first frame from the prompt, without a picture; may be left out when the farm offers one.
    keyframe_model: Option<String>,
    keyframe: Option<KeyframeSettings>,
    #[serde(default, alias = "lora")]
    adapters: Vec<AdapterWish>,
    width: Option<u32>,
    height: Option<u32>,
    #[serde(alias = "num_frames")]
    frames: Option<u32>,
    fps: Option<u32>,
    #[serde(alias = "num_inference_steps")]
    steps: Option<u32>,
    motion_bucket_id: Option<u32>,
    noise_aug_strength: Option<f32>,
    min_guidance_scale: Option<f32>,
    #[serde(alias = "guidance_scale")]
    max_guidance_scale: Option<f32>,
    decode_chunk_size: Option<u32>,
    seed: Option<u64>,
}

/// The form of a create.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "describes the form; its fields are read as they come"
)]
pub(super) struct CreateForm {
    prompt: String,
    /// The picture that moves. Without one it is made from the prompt, if the farm offers a keyframe model.
    #[schema(format = Binary, content_media_type = "application/octet-stream")]
    input_reference: Option<String>,
    model: Option<String>,
    size: Option<String>,
    seconds: Option<String>,
}

/// A wish, and the picture that came with it.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) wish: Wish,
    /// To be stored; then it is the wish's image.
    pub(super) picture: Option<Bytes>,
}

/// Reads a JSON body.
pub(super) fn from_json(bytes: &[u8]) -> Result<Created, ApiError> {
    let request: CreateRequest = read_json(bytes)?;
    created(request, None)
}

/// Reads a form: its fields become the JSON that they stand for.
pub(super) async fn from_form(mut form: Multipart) -> Result<Created, ApiError> {
    let bytes_max = BODY_BYTES_MAX as u64;
    let too_large = broken(bytes_max);
    let mut fields = Fields::default();
    let mut picture = None;
    while let Some(field) = form.next_field().await.map_err(&too_large)? {
        let name: String = field.name().unwrap_or_default().chars().take(64).collect();
        if name == "input_reference" && field.file_name().is_some() {
            picture = match receive_file(field, bytes_max).await? {
                IncomingFile::InMemory(bytes) => Some(bytes),
                IncomingFile::OnDisk(_) => {
                    return Err(ApiError::BodyTooLarge {
                        bytes_max: flowai_actors::limits::IMAGE_BYTES_MAX,
                    });
                }
            };
            continue;
        }
        let text = receive_text(field, &name, bytes_max).await?;
        fields.put(&name, &text)?;
    }
    created(read_json(fields.into_json()?.as_bytes())?, picture)
}

fn created(request: CreateRequest, picture: Option<Bytes>) -> Result<Created, ApiError> {
    let mut image = request.image.map(UploadId::from_uuid);
    let mut picture = picture;
    if let Some(reference) = request.input_reference {
        image = image.or(reference.file_id.map(UploadId::from_uuid));
        if let Some(url) = reference.image_url {
            picture = Some(from_data_url(&url)?);
        }
    }
    let (width, height) = match request.size.as_deref() {
        Some(size) => read_size(size)?,
        None => (request.width, request.height),
    };
    let seconds = request.seconds.as_ref().map(read_seconds).transpose()?;
    let wish = Wish {
        image,
        prompt: request.prompt,
        negative_prompt: request.negative_prompt,
        keyframe_model: request.keyframe_model,
        keyframe: request.keyframe,
        draft: false,
        model: request.model,
        adapters: request.adapters,
        frames: request.frames,
        fps: request.fps,
        seconds,
        width,
        height,
        steps: request.steps,
        motion_bucket_id: request.motion_bucket_id,
        noise_aug_strength: request.noise_aug_strength,
        min_guidance_scale: request.min_guidance_scale,
        max_guidance_scale: request.max_guidance_scale,
        decode_chunk_size: request.decode_chunk_size,
        seed: request.seed,
        ..Wish::default()
    };
    Ok(Created { wish, picture })
}

fn read_size(text: &str) -> Result<(Option<u32>, Option<u32>), ApiError> {
    if text == "auto" {
        return Ok((None, None));
    }
    let sides = text
        .split_once('x')
        .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    let (width, height) =
        sides.ok_or_else(|| ApiError::field("/size", "invalid", "must look like 1024x576"))?;
    Ok((Some(width), Some(height)))
}

fn read_seconds(value: &Value) -> Result<f64, ApiError> {
    let seconds = match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    seconds
        .filter(|seconds: &f64| (0.0..=600.0).contains(seconds) && *seconds > 0.0)
        .ok_or_else(|| {
            ApiError::field("/seconds", "invalid", "must be a number of seconds, over 0")
        })
}

fn from_data_url(url: &str) -> Result<Bytes, ApiError> {
    let pointer = "/input_reference/image_url";
    let data = url
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(";base64,"))
        .ok_or_else(|| {
            let detail =
                "must be a data: URL in base64; addresses are not fetched, upload the picture";
            ApiError::field(pointer, "invalid", detail)
        })?;
    BASE64_STANDARD
        .decode(data.1)
        .map(Bytes::from)
        .map_err(|_| ApiError::field(pointer, "invalid", "must be base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(fields: &[(&str, &str)]) -> Result<Created, ApiError> {
        let mut read = Fields::default();
        for (name, text) in fields {
            read.put(name, text)?;
        }
        from_json(read.into_json()?.as_bytes())
    }

    #[test]
    fn a_form_says_what_json_says() {
        let (image, first, second) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        let common = [
            ("prompt", "7"),
            ("seed", "42"),
            ("num_frames", "3"),
            ("noise_aug_strength", "0.5"),
            ("size", "64x32"),
            ("seconds", "4"),
        ];
        let (image, first, second) = (image.to_string(), first.to_string(), second.to_string());
        let list = format!(r#"[{{"id":"{first}","weight":0.5}},{{"id":"{second}"}}]"#);
        let ways: [Vec<(&str, &str)>; 3] = [
            vec![("image", &image), ("adapters", &list)],
            vec![
                ("input_reference[file_id]", &image),
                ("adapters[][id]", &first),
                ("adapters[][weight]", "0.5"),
                ("adapters[][id]", &second),
                ("adapters[][weight]", "1"),
            ],
            vec![
                ("image", &image),
                ("lora[0][id]", &first),
                ("lora[0][weight]", "0.5"),
                ("lora[1][id]", &second),
            ],
        ];
        for way in ways {
            let wish = form(&[&common[..], &way].concat()).unwrap().wish;
            assert_eq!(wish.image.unwrap().to_string(), image);
            assert_eq!((wish.prompt.as_str(), wish.seed), ("7", Some(42)));
            assert_eq!((wish.frames, wish.seconds), (Some(3), Some(4.0)));
            assert_eq!((wish.width, wish.height), (Some(64), Some(32)));
            let adapters: Vec<(String, f32)> = wish
                .adapters
                .iter()
                .map(|adapter| (adapter.id.to_string(), adapter.weight))
                .collect();
            assert_eq!(adapters, [(first.clone(), 0.5), (second.clone(), 1.0)]);
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let image = Uuid::now_v7().to_string();
        let check = |name: &str, text: &str, pointer: &str| match form(&[
            ("image", &image),
            (name, text),
        ]) {
            Err(ApiError::ValidationFailed(fields)) => {
                assert_eq!(fields[0].pointer, pointer, "{name}={text}");
            }
            other => panic!("{name}={text}: {other:?}"),
        };
        check("seed", "many", "/seed");
        check("size", "large", "/size");
        check("seconds", "-4", "/seconds");
        check("seconds", "NaN", "/seconds");
        check("price", "0", "/price");
        check("adapters", "x", "?adapters");
        check("adapters[7][id]", "x", "?adapters[7][id]");
        check("seed[a][b][c]", "1", "?seed[a][b][c]");
        check(
            "input_reference[image_url]",
            "http://10.0.0.1/",
            "/input_reference/image_url",
        );
    }

    #[test]
    fn a_prompt_alone_asks_for_a_keyframe() {
        let read = form(&[
            ("prompt", "a cat"),
            ("negative_prompt", "7"),
            ("keyframe[steps]", "9"),
        ]);
        let wish = read.unwrap().wish;
        assert_eq!((wish.image, wish.prompt.as_str()), (None, "a cat"));
        assert_eq!(wish.negative_prompt.as_deref(), Some("7"));
        assert_eq!(wish.keyframe.unwrap().steps, Some(9));
    }
}
