//! Links to one file of one video for five minutes. `<video src>` sends no bearer token, so the link is the credential: it
//! names user, video and file, and only this farm can make it.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use chrono::{DateTime, TimeZone, Utc};
use flowai_actors::ids::{JobId, UserId};
use uuid::Uuid;

use super::MediaFile;
use crate::auth::Keys;

pub(crate) const TICKET_TTL_S: i64 = 300;
const PURPOSE: &str = "media";
const CONTENT_BYTES: usize = 16 + 16 + 1 + 8;

/// What a link opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) user: UserId,
    pub(super) video: JobId,
    pub(super) file: MediaFile,
}

/// The path of a file of a video until `until`.
pub(crate) fn link(
    keys: &Keys,
    user: UserId,
    video: JobId,
    file: MediaFile,
    until: DateTime<Utc>,
) -> String {
    let mut content = Vec::with_capacity(CONTENT_BYTES + 32);
    content.extend_from_slice(user.as_uuid().as_bytes());
    content.extend_from_slice(video.as_uuid().as_bytes());
    content.push(file.number());
    content.extend_from_slice(&until.timestamp().to_be_bytes());
    let tag = keys.seal(PURPOSE, &content);
    content.extend_from_slice(&tag);
    format!("/v1/media/{}", BASE64URL.encode(content))
}

/// What a ticket opens now; `None` when it has expired or was not made here.
pub(super) fn read(keys: &Keys, text: &str, now: DateTime<Utc>) -> Option<Ticket> {
    let bytes = BASE64URL.decode(text).ok()?;
    let (content, tag) = bytes.split_at_checked(CONTENT_BYTES)?;
    if !keys.is_sealed(PURPOSE, content, tag) {
        return None;
    }
    let (user, rest) = content.split_at_checked(16)?;
    let (video, rest) = rest.split_at_checked(16)?;
    let (file, until) = rest.split_first()?;
    let until = i64::from_be_bytes(until.try_into().ok()?);
    let is_alive = now <= Utc.timestamp_opt(until, 0).single()?;
    let ticket = Ticket {
        user: UserId::from_uuid(Uuid::from_slice(user).ok()?),
        video: JobId::from_uuid(Uuid::from_slice(video).ok()?),
        file: MediaFile::from_number(*file)?,
    };
    is_alive.then_some(ticket)
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;

    #[test]
    fn a_link_opens_its_own_file_until_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_create(folder.path()).unwrap();
        let (user, video) = (UserId::generate(), JobId::generate());
        let until = Utc::now() + Duration::seconds(TICKET_TTL_S);
        for file in MediaFile::ALL {
            let path = link(&keys, user, video, file, until);
            let text = path.strip_prefix("/v1/media/").unwrap();
            let ticket = Ticket { user, video, file };
            assert_eq!(read(&keys, text, Utc::now()), Some(ticket));
            assert_eq!(read(&keys, text, until + Duration::seconds(1)), None);
            let mut bytes = BASE64URL.decode(text).unwrap();
            for place in 0..bytes.len() {
                bytes[place] ^= 1;
                assert_eq!(
                    read(&keys, &BASE64URL.encode(&bytes), Utc::now()),
                    None,
                    "{place}"
                );
                bytes[place] ^= 1;
            }
            for broken in ["", "AA", &text[..text.len() - 4], &format!("{text}AAAA")] {
                assert_eq!(read(&keys, broken, Utc::now()), None, "{broken}");
            }
        }
    }
}
