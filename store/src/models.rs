//! The models that nodes offer, as users may choose them: each that some node offered when it registered last, whether or not
//! it is up at this moment.

use chrono::{DateTime, Utc};
use flowai_actors::ids::ModelId;
use flowai_actors::messages::ModelOffer;
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::database::DatabaseError;

/// An offered model.
#[derive(Debug, Clone)]
pub struct Model {
    pub offer: ModelOffer,
    pub updated_at: DateTime<Utc>,
}

/// The rows that [`read`] reads.
macro_rules! offered {
    () => {
        "select offer, updated_at from model where exists (select from node_offer where model_id = model.id)"
    };
}

/// All models, by name.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Model>, DatabaseError> {
    let rows: Vec<(Json<ModelOffer>, DateTime<Utc>)> =
        sqlx::query_as(concat!(offered!(), " order by id"))
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().map(read).collect())
}

pub async fn find(
    connection: &mut PgConnection,
    id: &ModelId,
) -> Result<Option<Model>, DatabaseError> {
    let row: Option<(Json<ModelOffer>, DateTime<Utc>)> =
        sqlx::query_as(concat!(offered!(), " and id = $1"))
            .bind(id.as_str())
            .fetch_optional(connection)
            .await?;
    Ok(row.map(read))
}

/// Whether one node offers both, as a video from words needs that is made by both.
pub async fn are_together(
    connection: &mut PgConnection,
    one: &ModelId,
    other: &ModelId,
) -> Result<bool, DatabaseError> {
    let together = sqlx::query_scalar(
        "select exists (select from node_offer one join node_offer other using (node_id)
                         where one.model_id = $1 and other.model_id = $2)",
    )
    .bind(one.as_str())
    .bind(other.as_str())
    .fetch_one(connection)
    .await?;
    Ok(together)
}

fn read((Json(offer), updated_at): (Json<ModelOffer>, DateTime<Utc>)) -> Model {
    Model { offer, updated_at }
}
