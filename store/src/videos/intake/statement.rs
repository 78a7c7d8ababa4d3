//! The statement that queues the videos of many requests: `submit` of `store/migrations`.

use flowai_actors::state::Tier;
use sqlx::types::Json;

use super::super::Queueing;
use super::gathering::Outcome;
use super::request::{Request, Row};
use crate::database::{Database, DatabaseError, not_of, violates};
use crate::idempotency::Known;
use crate::number::millicredits;

type Verdict = (
    String,
    Option<String>,
    Option<i32>,
    Option<serde_json::Value>,
);

/// Queues what can be queued, in a transaction of its own, and says of each what became of it. `requests` are of one owner each, in
/// the order of owners.
///
/// # Errors
/// Nothing of any of them was queued, unless the connection was lost on the way or no answer came. What is said of one that this version
/// does not understand is the error of that one.
pub(super) async fn submit(
    database: &Database,
    queued_scale: u32,
    requests: &[&Request],
) -> Result<Vec<Outcome>, DatabaseError> {
    let videos: Vec<(i32, &Row)> = (1_i32..)
        .zip(requests)
        .flat_map(|(place, request)| request.videos.iter().map(move |video| (place, video)))
        .collect();
    let uses: Vec<_> = videos
        .iter()
        .flat_map(|(place, video)| {
            video
                .adapters
                .iter()
                .map(move |use_of| (*place, video.id, *use_of))
        })
        .collect();
    let keyframe =
        |(_, video): &(i32, &Row)| Some(video.spec.keyframe()?.model.as_str().to_owned());
    let query = sqlx::query_as(
        "select verdict, detail, known_status, known_answer
           from submit($1, $2, $3, $4, $5, $6, $7, near_now($8), $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)",
    )
    .bind(each(requests, |request| request.owner))
    .bind(each(requests, |request| request.key.as_deref()))
    .bind(each(requests, |request| request.hash.as_ref().map(<[u8; 32]>::as_slice)))
    .bind(each(requests, |request| request.status))
    .bind(each(requests, |request| &request.answer))
    .bind(each(&videos, |(place, _)| *place))
    .bind(each(&videos, |(_, video)| video.id))
    .bind(each(&videos, |(_, video)| video.created_at))
    .bind(each(&videos, |(_, video)| Json(&video.spec)))
    .bind(each(&videos, |(_, video)| video.final_spec.as_ref().map(Json)))
    .bind(each(&videos, |(_, video)| video.spec.model.as_str()))
    .bind(each(&videos, |(_, video)| video.image))
    .bind(each(&videos, keyframe))
    .bind(each(&videos, |(_, video)| video.prompt.as_str()))
    .bind(each(&videos, |(_, video)| video.parent))
    .bind(each(&videos, |(_, video)| video.class))
    .bind(each(&videos, |(_, video)| video.after))
    .bind(each(&videos, |(_, video)| video.price_mc))
    .bind(each(&videos, |(_, video)| video.price_book))
    .bind(each(&uses, |(place, ..)| *place))
    .bind(each(&uses, |(_, video, _)| *video))
    .bind(each(&uses, |(.., adapter)| *adapter))
    .bind(queued_caps(queued_scale));
    let verdicts: Vec<Verdict> = database.frequent().fetch_all(query).await?;
    let verdicts = verdicts.into_iter().zip(requests);
    Ok(verdicts
        .map(|(verdict, request)| outcome(verdict, request.due_mc))
        .collect())
}

/// What `submit` says of a request.
fn outcome((verdict, detail, status, body): Verdict, due_mc: i64) -> Outcome {
    match (verdict.as_str(), detail, status, body) {
        ("queued", ..) => Ok(Queueing::Queued),
        ("in_progress", ..) => Ok(Queueing::InProgress),
        ("reused", ..) => Ok(Queueing::Known(Known::Reused)),
        ("replayed", _, Some(status), Some(body)) => {
            Ok(Queueing::Known(Known::answered(status, body)))
        }
        ("too_many", Some(tier), ..) => match Tier::from_name(&tier) {
            Some(tier) => Ok(Queueing::TooMany { tier }),
            None => Err(not_of("account.tier", &tier)),
        },
        ("no_credits", Some(available), ..) => match available.parse() {
            Ok(available) => Ok(Queueing::TooFewCredits {
                needed: millicredits(due_mc),
                available: millicredits(available),
            }),
            Err(_) => Err(not_of("submit.detail", &available)),
        },
        ("no_image", ..) => Ok(Queueing::NoImage),
        ("no_adapter", ..) => Ok(Queueing::NoAdapter),
        ("no_parent", ..) => Ok(Queueing::NoParent),
        ("no_after", ..) => Ok(Queueing::NoAfter),
        (other, ..) => Err(not_of("submit.verdict", other)),
    }
}

/// What a lone request named that was removed while the statement looked, where that is why it was refused.
pub(super) fn missing(error: &DatabaseError) -> Option<Queueing> {
    let DatabaseError::Query(error) = error else {
        return None;
    };
    [
        ("job_image_not_found", Queueing::NoImage),
        ("job_adapter_not_found", Queueing::NoAdapter),
        ("job_parent_not_found", Queueing::NoParent),
    ]
    .into_iter()
    .find_map(|(constraint, missing)| violates(error, constraint).then_some(missing))
}

/// By tier, as `submit` reads them.
fn queued_caps(scale: u32) -> serde_json::Value {
    let cap = |tier: Tier| -> (String, serde_json::Value) {
        let most = tier.queued_max().saturating_mul(scale);
        (tier.as_str().to_owned(), most.into())
    };
    serde_json::Value::Object(Tier::ALL.map(cap).into_iter().collect())
}

/// A column.
fn each<'a, T, C>(rows: &'a [T], column: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(column).collect()
}
