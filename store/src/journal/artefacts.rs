//! What a settled attempt leaves: the row of its clip, and the picture that the clip began with, if words made it.

use std::collections::HashMap;

use flowai_actors::ids::{JobId, UploadId, UserId};
use flowai_actors::messages::{ArtefactFile, AttemptRef};
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::Moved;
use super::change::{Artefact, Change, Keyframe, artefact_key};
use crate::number::{bigint, int};
use crate::uploads::Purpose;

/// The clips of the attempts that were settled in this transaction, and the pictures that they began with.
pub(super) async fn insert(
    connection: &mut PgConnection,
    changes: &[Change],
    moved: &HashMap<JobId, Moved>,
) -> Result<(), sqlx::Error> {
    let settled: Vec<Settled<'_>> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Settle { held, artefact } => Some(Settled {
                at: held.at,
                artefact,
                owner: moved.get(&held.at.job)?.owner,
                keyframe: artefact
                    .keyframe
                    .map(|keyframe| (UploadId::generate(), keyframe)),
            }),
            _ => None,
        })
        .collect();
    if settled.is_empty() {
        return Ok(());
    }
    insert_keyframes(&mut *connection, &settled).await?;
    let jobs: Vec<Uuid> = settled.iter().map(|one| one.at.job.as_uuid()).collect();
    let owners: Vec<Uuid> = settled.iter().map(|one| one.owner.as_uuid()).collect();
    let attempts: Vec<i32> = settled
        .iter()
        .map(|one| int(one.at.attempt.get()))
        .collect();
    let hashes: Vec<&[u8]> = settled
        .iter()
        .map(|one| one.artefact.clip_sha256.as_bytes().as_slice())
        .collect();
    let lengths: Vec<i64> = settled
        .iter()
        .map(|one| bigint(one.artefact.clip_bytes))
        .collect();
    let manifests: Vec<Json<_>> = settled
        .iter()
        .map(|one| Json(&one.artefact.manifest))
        .collect();
    let keys = |file| -> Vec<String> { settled.iter().map(|one| one.key(file)).collect() };
    let keyframes: Vec<Option<Uuid>> = settled
        .iter()
        .map(|one| Some(one.keyframe?.0.as_uuid()))
        .collect();
    sqlx::query(
        "insert into artefact (job_id, owner_id, attempt, clip_sha256, clip_bytes, manifest,
                               clip_key, poster_key, preview_key, spritesheet_key, keyframe_id)
         select * from unnest($1::uuid[], $2::uuid[], $3::int[], $4::bytea[], $5::bigint[], $6::jsonb[],
                              $7::text[], $8::text[], $9::text[], $10::text[], $11::uuid[])",
    )
    .bind(jobs)
    .bind(owners)
    .bind(attempts)
    .bind(hashes)
    .bind(lengths)
    .bind(manifests)
    .bind(keys(ArtefactFile::Clip))
    .bind(keys(ArtefactFile::Poster))
    .bind(keys(ArtefactFile::Preview))
    .bind(keys(ArtefactFile::Spritesheet))
    .bind(keyframes)
    .execute(connection)
    .await?;
    Ok(())
}

/// An attempt whose clip is delivered.
struct Settled<'a> {
    at: AttemptRef,
    artefact: &'a Artefact,
    owner: UserId,
    /// The picture that its owner gets.
    keyframe: Option<(UploadId, Keyframe)>,
}

impl Settled<'_> {
    fn key(&self, file: ArtefactFile) -> String {
        artefact_key(self.at.job, self.at.attempt, file)
    }
}

async fn insert_keyframes(
    connection: &mut PgConnection,
    settled: &[Settled<'_>],
) -> Result<(), sqlx::Error> {
    let made: Vec<(&Settled<'_>, UploadId, Keyframe)> = settled
        .iter()
        .filter_map(|one| {
            let (id, keyframe) = one.keyframe?;
            Some((one, id, keyframe))
        })
        .collect();
    if made.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = made.iter().map(|(_, id, _)| id.as_uuid()).collect();
    let owners: Vec<Uuid> = made.iter().map(|(one, ..)| one.owner.as_uuid()).collect();
    let hashes: Vec<&[u8]> = made
        .iter()
        .map(|(.., keyframe)| keyframe.sha256.as_bytes().as_slice())
        .collect();
    let lengths: Vec<i64> = made
        .iter()
        .map(|(.., keyframe)| bigint(keyframe.bytes))
        .collect();
    let widths: Vec<i32> = made
        .iter()
        .map(|(.., keyframe)| int(keyframe.size.0))
        .collect();
    let heights: Vec<i32> = made
        .iter()
        .map(|(.., keyframe)| int(keyframe.size.1))
        .collect();
    let keys: Vec<String> = made
        .iter()
        .map(|(one, ..)| one.key(ArtefactFile::Keyframe))
        .collect();
    sqlx::query(
        "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
         select id, owner_id, $8, sha256, bytes, $9, width, height, object_key
           from unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bigint[], $5::int[], $6::int[], $7::text[])
                as k (id, owner_id, sha256, bytes, width, height, object_key)",
    )
    .bind(ids)
    .bind(owners)
    .bind(hashes)
    .bind(lengths)
    .bind(widths)
    .bind(heights)
    .bind(keys)
    .bind(Purpose::Image.as_str())
    .bind(ArtefactFile::Keyframe.content_type())
    .execute(connection)
    .await?;
    Ok(())
}
