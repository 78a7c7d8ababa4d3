//! Extractors whose refusals are problems: a wrong field is named by its JSON pointer.

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use bytes::Bytes;
use flowai_actors::limits::BODY_BYTES_MAX;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use serde_path_to_error::{Path as ErrorPath, Segment};

use super::pace::is_too_slow;
use crate::error::ApiError;

/// The bytes of a JSON body; none stand for `{}`.
#[derive(Debug)]
pub(crate) struct JsonBytes(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        Self::read(request, state, BODY_BYTES_MAX as u64).await
    }
}

impl JsonBytes {
    /// Of a route that takes so many bytes.
    pub(crate) async fn read<S: Send + Sync>(
        request: Request,
        state: &S,
        bytes_max: u64,
    ) -> Result<Self, ApiError> {
        let is_json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(is_json);
        let body =
            Bytes::from_request(request, state)
                .await
                .map_err(|rejection| match rejection {
                    BytesRejection::FailedToBufferBody(inner)
                        if inner.status() == StatusCode::PAYLOAD_TOO_LARGE =>
                    {
                        ApiError::BodyTooLarge { bytes_max }
                    }
                    rejection if is_too_slow(&rejection) => ApiError::BodyTooSlow,
                    _ => ApiError::MalformedJson("it ended early".to_owned()),
                })?;
        if body.is_empty() {
            return Ok(Self(Bytes::from_static(b"{}")));
        }
        if !is_json {
            let detail = "send the body as application/json".to_owned();
            return Err(ApiError::MediaTypeRefused(detail));
        }
        Ok(Self(body))
    }
}

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let JsonBytes(bytes) = JsonBytes::from_request(request, state).await?;
        read_json(&bytes).map(Self)
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json") || essence.ends_with("+json")
}

/// Reads JSON; what is no JSON is `malformed_json`, what does not fit is `validation_failed` with its pointer.
pub(crate) fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if !bytes.trim_ascii_start().starts_with(b"{") {
        // Serde would read a list as the fields of an object in their order.
        return Err(match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) => ApiError::field("", "invalid", "the body must be an object"),
            Err(error) => ApiError::MalformedJson(error.to_string()),
        });
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let pointer = pointer_of(error.path());
        let inner = error.into_inner();
        match inner.classify() {
            Category::Data => data_error(pointer, &without_position(&inner)),
            Category::Syntax | Category::Eof | Category::Io => {
                ApiError::MalformedJson(inner.to_string())
            }
        }
    })?;
    reader
        .end()
        .map_err(|error| ApiError::MalformedJson(error.to_string()))?;
    Ok(value)
}

/// A field that is missing is named itself; the reader points at the object that lacks it.
fn data_error(pointer: String, detail: &str) -> ApiError {
    let missing = detail
        .strip_prefix("missing field `")
        .and_then(|rest| rest.strip_suffix('`'));
    match missing {
        Some(name) => ApiError::field(format!("{pointer}/{name}"), "missing", "must be given"),
        None => ApiError::field(pointer, "invalid", detail),
    }
}

/// What is wrong, without "at line 1 column 7": the pointer says where.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn pointer_of(path: &ErrorPath) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => format!("/{variant}"),
            Segment::Unknown => String::new(),
        })
        .collect()
}

/// Path parameters. Ids are opaque: one that cannot be read names nothing.
#[derive(Debug)]
pub(crate) struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|_| ApiError::NotFound("an object of this id"))
    }
}

/// Query parameters.
#[derive(Debug)]
pub(crate) struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|rejection| {
                let text = rejection.body_text();
                let detail = text.rsplit(": ").next().unwrap_or_default();
                let name = text.rsplit(": ").nth(1).unwrap_or_default();
                ApiError::field(format!("?{name}"), "invalid", detail)
            })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Body {
        frames: u32,
        #[serde(default)]
        adapters: Vec<Body>,
    }

    #[test]
    fn the_wrong_field_is_named() {
        for (text, pointer) in [
            (r#"{"frames":"x"}"#, "/frames"),
            (r#"{"frames":-1}"#, "/frames"),
            (
                r#"{"frames":1,"adapters":[{"frames":1},{"frames":null}]}"#,
                "/adapters/1/frames",
            ),
            (r#"{"frames":1,"price":0}"#, "/price"),
            (r#"{}"#, "/frames"),
        ] {
            match read_json::<Body>(text.as_bytes()) {
                Err(ApiError::ValidationFailed(fields)) => {
                    assert_eq!(fields[0].pointer, pointer, "{text}");
                    assert!(!fields[0].detail.contains("line"), "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_json_is_said_so() {
        for text in ["", "{", r#"{"frames":1}x"#, "nonsense"] {
            let verdict = read_json::<Body>(text.as_bytes());
            assert!(matches!(verdict, Err(ApiError::MalformedJson(_))), "{text}");
        }
    }
}
