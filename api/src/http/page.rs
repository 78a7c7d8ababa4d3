//! Lists: a page, and a cursor that only this farm can make and only the same list takes.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::auth::Keys;
use crate::error::ApiError;

pub(crate) const LIMIT_DEFAULT: u32 = 50;
pub(crate) const LIMIT_MAX: u32 = 200;
const PURPOSE: &str = "cursor";
const TAG_BYTES: usize = 16;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    pub data: Vec<T>,
    /// For `cursor`; null on the last page.
    pub next_cursor: Option<String>,
}

impl<T: Serialize> Page<T> {
    /// The page, with an RFC 8288 `Link` to the next one. `path` with query, without a cursor.
    pub(crate) fn answer(self, path: &str) -> Response {
        let link = self.next_cursor.as_ref().and_then(|cursor| {
            let joint = if path.contains('?') { '&' } else { '?' };
            HeaderValue::from_str(&format!("<{path}{joint}cursor={cursor}>; rel=\"next\"")).ok()
        });
        let mut response = axum::Json(self).into_response();
        if let Some(link) = link {
            response.headers_mut().insert(header::LINK, link);
        }
        response
    }
}

/// How many rows a caller wants.
///
/// # Errors
/// Out of 1..=200.
pub(crate) fn limit(asked: Option<u32>) -> Result<u32, ApiError> {
    let limit = asked.unwrap_or(LIMIT_DEFAULT);
    if (1..=LIMIT_MAX).contains(&limit) {
        Ok(limit)
    } else {
        let detail = format!("must be 1..={LIMIT_MAX} (got {limit})");
        Err(ApiError::field("?limit", "out_of_range", detail))
    }
}

/// A place in a list: behind the row of this id. `list` names the list with its filters and its owner.
fn cursor(keys: &Keys, list: &str, behind: Uuid) -> String {
    let mut bytes = behind.as_bytes().to_vec();
    bytes.extend_from_slice(&tag(keys, list, behind)[..TAG_BYTES]);
    BASE64URL.encode(bytes)
}

/// Cuts rows, of which one more was read than the page holds, to the page. Gives the place behind it, if there are more.
pub(crate) fn cut<T>(
    rows: &mut Vec<T>,
    limit: u32,
    keys: &Keys,
    list: &str,
    id: impl Fn(&T) -> Uuid,
) -> Option<String> {
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let last = rows.last().filter(|_| has_more);
    last.map(|row| cursor(keys, list, id(row)))
}

/// Reads what [`cursor`] made for the same list.
pub(crate) fn behind(keys: &Keys, list: &str, cursor: &str) -> Result<Uuid, ApiError> {
    let bytes = BASE64URL
        .decode(cursor)
        .map_err(|_| ApiError::CursorInvalid)?;
    let (id, sent) = bytes.split_at_checked(16).ok_or(ApiError::CursorInvalid)?;
    let id = Uuid::from_slice(id).map_err(|_| ApiError::CursorInvalid)?;
    // Truncated tags are compared by their whole: a shorter or longer one is another text.
    if sent == &tag(keys, list, id)[..TAG_BYTES] {
        Ok(id)
    } else {
        Err(ApiError::CursorInvalid)
    }
}

fn tag(keys: &Keys, list: &str, behind: Uuid) -> [u8; 32] {
    let mut content = list.as_bytes().to_vec();
    content.push(0);
    content.extend_from_slice(behind.as_bytes());
    keys.seal(PURPOSE, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_fits_its_own_list_only() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_create(folder.path()).unwrap();
        let id = Uuid::now_v7();
        let cursor = cursor(&keys, "videos of a", id);
        assert_eq!(behind(&keys, "videos of a", &cursor).unwrap(), id);
        assert!(behind(&keys, "videos of b", &cursor).is_err());
        for broken in [
            "",
            "x",
            &cursor[1..],
            &format!("{cursor}AA"),
            &"A".repeat(43),
        ] {
            let verdict = behind(&keys, "videos of a", broken);
            assert!(matches!(verdict, Err(ApiError::CursorInvalid)), "{broken}");
        }
    }
}
