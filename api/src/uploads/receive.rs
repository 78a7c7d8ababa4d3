//! Files from a multipart body, to memory or to a temporary file, counted while they come in.

use std::io::Write;

use axum::extract::multipart::{Field, MultipartError};
use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use flowai_actors::limits::{ADAPTER_BYTES_MAX, IMAGE_BYTES_MAX};
use tempfile::NamedTempFile;

use crate::error::ApiError;
use crate::http::is_too_slow;

/// The whole body of an upload: the largest file and the words around it.
pub(super) const UPLOAD_BODY_BYTES_MAX: usize = ADAPTER_BYTES_MAX as usize + (1 << 20);
/// Text fields are names and numbers.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// A file that has come in whole.
#[derive(Debug)]
pub(crate) enum IncomingFile {
    /// At most [`IMAGE_BYTES_MAX`].
    InMemory(Bytes),
    /// At most [`ADAPTER_BYTES_MAX`]; removed when dropped.
    OnDisk(NamedTempFile),
}

/// Reads a file field of a route that takes so many bytes. It stays in memory as long as it could be a picture.
///
/// # Errors
/// `BodyTooLarge`; `MalformedJson` never.
pub(crate) async fn receive_file(
    mut field: Field<'_>,
    route_bytes_max: u64,
) -> Result<IncomingFile, ApiError> {
    let too_large = broken(route_bytes_max);
    let mut memory = BytesMut::new();
    let mut disk: Option<(NamedTempFile, u64)> = None;
    while let Some(chunk) = field.chunk().await.map_err(&too_large)? {
        match &mut disk {
            None if memory.len() + chunk.len() <= IMAGE_BYTES_MAX as usize => {
                memory.extend_from_slice(&chunk);
            }
            None => {
                let file = tokio::task::block_in_place(|| spill(&memory, &chunk))?;
                disk = Some((file, (memory.len() + chunk.len()) as u64));
                memory = BytesMut::new();
            }
            Some((file, length)) => {
                *length += chunk.len() as u64;
                if *length > ADAPTER_BYTES_MAX {
                    return Err(ApiError::BodyTooLarge {
                        bytes_max: ADAPTER_BYTES_MAX,
                    });
                }
                tokio::task::block_in_place(|| file.write_all(&chunk)).map_err(no_room)?;
            }
        }
    }
    Ok(match disk {
        None => IncomingFile::InMemory(memory.freeze()),
        Some((file, _)) => IncomingFile::OnDisk(file),
    })
}

impl IncomingFile {
    /// As a file, however small.
    pub(crate) fn into_file(self) -> Result<NamedTempFile, ApiError> {
        match self {
            Self::OnDisk(file) => Ok(file),
            Self::InMemory(bytes) => tokio::task::block_in_place(|| spill(&bytes, &[])),
        }
    }
}

fn spill(first: &[u8], second: &[u8]) -> Result<NamedTempFile, ApiError> {
    let mut file = NamedTempFile::new().map_err(no_room)?;
    file.write_all(first).map_err(no_room)?;
    file.write_all(second).map_err(no_room)?;
    Ok(file)
}

fn no_room(error: std::io::Error) -> ApiError {
    tracing::error!(%error, "a file cannot be kept while it is checked");
    ApiError::Overloaded
}

/// A text field of a route that takes so many bytes.
pub(crate) async fn receive_text(
    mut field: Field<'_>,
    name: &str,
    route_bytes_max: u64,
) -> Result<String, ApiError> {
    let too_large = broken(route_bytes_max);
    let mut text = BytesMut::new();
    while let Some(chunk) = field.chunk().await.map_err(&too_large)? {
        if text.len() + chunk.len() > TEXT_BYTES_MAX {
            let detail = format!("must be at most {TEXT_BYTES_MAX} bytes");
            return Err(ApiError::field(format!("?{name}"), "length", detail));
        }
        text.extend_from_slice(&chunk);
    }
    String::from_utf8(text.to_vec())
        .map_err(|_| ApiError::field(format!("?{name}"), "invalid", "must be UTF-8"))
}

/// What is said of a multipart body that cannot be read, of a route that takes so many bytes.
pub(crate) fn broken(bytes_max: u64) -> impl Fn(MultipartError) -> ApiError {
    move |error| {
        if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return ApiError::BodyTooLarge { bytes_max };
        }
        if is_too_slow(&error) {
            return ApiError::BodyTooSlow;
        }
        let reason = error.body_text();
        ApiError::MediaTypeRefused(format!("the multipart body cannot be read: {reason}"))
    }
}
