//! A file of a delivered video, whole or in a range, streamed from the object store.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flowai_actors::ids::{JobId, UserId};
use flowai_actors::messages::ArtefactFile;
use flowai_store::videos;
use tokio_util::io::ReaderStream;

use crate::app::App;
use crate::error::ApiError;

/// A file that can be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MediaFile {
    Content,
    Poster,
    Preview,
    Spritesheet,
    Keyframe,
}

impl MediaFile {
    pub(crate) const ALL: [Self; 5] = [
        Self::Content,
        Self::Poster,
        Self::Preview,
        Self::Spritesheet,
        Self::Keyframe,
    ];

    /// As in tickets; never given to another file.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Content => 1,
            Self::Poster => 2,
            Self::Preview => 3,
            Self::Spritesheet => 4,
            Self::Keyframe => 5,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|file| file.number() == number)
    }

    const fn artefact(self) -> ArtefactFile {
        match self {
            Self::Content => ArtefactFile::Clip,
            Self::Poster => ArtefactFile::Poster,
            Self::Preview => ArtefactFile::Preview,
            Self::Spritesheet => ArtefactFile::Spritesheet,
            Self::Keyframe => ArtefactFile::Keyframe,
        }
    }

    /// Set by us and never taken from the store.
    const fn content_type(self) -> &'static str {
        self.artefact().content_type()
    }

    const fn extension(self) -> &'static str {
        match self {
            Self::Content => "mp4",
            Self::Poster | Self::Preview => "webp",
            Self::Spritesheet => "jpg",
            Self::Keyframe => "png",
        }
    }
}

/// The object of a file of one of the user's own videos.
///
/// # Errors
/// `NotFound` for a stranger's video, and for the keyframe of one that was made from a picture; `StateConflict` for one without
/// a clip.
pub(crate) async fn find(
    app: &App,
    user: UserId,
    video: JobId,
    file: MediaFile,
) -> Result<String, ApiError> {
    let mut transaction = app.database.begin_as(user).await?;
    let Some(artefact) = videos::artefact(&mut transaction, video).await? else {
        return match videos::find(&mut transaction, video).await? {
            None => Err(ApiError::NotFound("a video of this id")),
            Some(video) => Err(no_clip_of(video.state)),
        };
    };
    Ok(match file {
        MediaFile::Content => artefact.clip_key,
        MediaFile::Poster => artefact.poster_key,
        MediaFile::Preview => artefact.preview_key,
        MediaFile::Spritesheet => artefact.spritesheet_key,
        MediaFile::Keyframe => artefact.keyframe_key.ok_or(ApiError::NotFound(
            "a keyframe of this video, which was made from a picture,",
        ))?,
    })
}

/// What is said of a video that has no clip.
pub(crate) fn no_clip_of(state: flowai_actors::state::JobState) -> ApiError {
    let state = state.as_str();
    ApiError::StateConflict(format!("the video is {state} and has no clip"))
}

/// Streams the object. The bytes of a key never change, so it may be kept, by this user's browser only.
pub(crate) async fn serve(
    app: &App,
    headers: &HeaderMap,
    key: &str,
    video: JobId,
    file: MediaFile,
) -> Result<Response, ApiError> {
    let head = app.objects.head(key).await?;
    let length = head.ok_or(ApiError::NotFound("this file"))?.length;
    let etag = format!("\"{video}-{}\"", file.number());
    let asked = headers
        .get(header::RANGE)
        .filter(|_| may_range(headers, &etag))
        .and_then(|value| value.to_str().ok())
        .map_or(Ok(None), |text| range(text, length))
        .map_err(|OutsideRange| ApiError::RangeRefused { length })?;
    let object = match asked {
        Some((first, last)) => app.objects.get_range(key, first, last).await?,
        None => app.objects.get(key).await?,
    };
    let body = Body::from_stream(ReaderStream::with_capacity(object.into_reader(), 64 << 10));
    let mut response = body.into_response();
    let name = format!("inline; filename=\"flowai-{video}.{}\"", file.extension());
    let sent = match asked {
        Some((first, last)) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let span = format!("bytes {first}-{last}/{length}");
            insert(&mut response, header::CONTENT_RANGE, &span);
            last - first + 1
        }
        None => length,
    };
    insert(&mut response, header::CONTENT_TYPE, file.content_type());
    insert(&mut response, header::CONTENT_LENGTH, &sent.to_string());
    insert(&mut response, header::CONTENT_DISPOSITION, &name);
    insert(&mut response, header::ACCEPT_RANGES, "bytes");
    insert(&mut response, header::ETAG, &etag);
    insert(&mut response, header::CACHE_CONTROL, "private, max-age=300");
    insert(
        &mut response,
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; sandbox",
    );
    Ok(response)
}

fn insert(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A range of something else than what is served now is answered whole.
fn may_range(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get(header::IF_RANGE)
        .is_none_or(|value| value == etag)
}

#[derive(Debug, PartialEq, Eq)]
struct OutsideRange;

/// First and last byte of a `Range` header; `None` when it asks for more than one range, or in a way that is not known:
/// then the whole file is right (RFC 9110, 14.2).
fn range(text: &str, length: u64) -> Result<Option<(u64, u64)>, OutsideRange> {
    let Some(spec) = text.trim().strip_prefix("bytes=") else {
        return Ok(None);
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Ok(None);
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let (first, last) = match (first, last) {
        ("", suffix) => match number(suffix) {
            Some(0) => return Err(OutsideRange),
            Some(suffix) => (length.saturating_sub(suffix), length.saturating_sub(1)),
            None => return Ok(None),
        },
        (first, "") => match number(first) {
            Some(first) => (first, length.saturating_sub(1)),
            None => return Ok(None),
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => {
                (first, last.min(length.saturating_sub(1)))
            }
            _ => return Ok(None),
        },
    };
    if first < length {
        Ok(Some((first, last)))
    } else {
        Err(OutsideRange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_says() {
        let check = |text: &str, expected: Result<Option<(u64, u64)>, OutsideRange>| {
            assert_eq!(range(text, 100), expected, "{text}");
        };
        check("bytes=0-", Ok(Some((0, 99))));
        check("bytes=0-0", Ok(Some((0, 0))));
        check("bytes=10-19", Ok(Some((10, 19))));
        check("bytes=90-1000", Ok(Some((90, 99))));
        check("bytes=-10", Ok(Some((90, 99))));
        check("bytes=-1000", Ok(Some((0, 99))));
        check("bytes=100-", Err(OutsideRange));
        check("bytes=-0", Err(OutsideRange));
        for whole in [
            "bytes=5-1",
            "bytes=0-1,5-6",
            "lines=1-2",
            "bytes=x-",
            "bytes",
            "bytes=--1",
        ] {
            check(whole, Ok(None));
        }
    }
}
