//! What outlives a leader about render nodes: which process of each is the newest, and the models they offered.

use flowai_actors::ids::{Generation, NodeId};
use flowai_actors::messages::ModelOffer;
use serde_json::Value;
use sqlx::PgConnection;

use crate::database::{Database, DatabaseError};
use crate::number::{generation_from, int};

/// Records that this process of the node is the newest, which proves every older one dead, and makes its models known to the
/// api: no longer those that the node has stopped to offer, and one whose folder changed as it is now. `Err` with the
/// generation that is known when it is greater; then nothing changes.
pub async fn register(
    database: &Database,
    node: &NodeId,
    generation: Generation,
    offers: &[ModelOffer],
) -> Result<Result<(), Generation>, DatabaseError> {
    let mut transaction = database.begin().await?;
    // Locks the node's row: a newer process waits until the offers of this one are written, and then replaces them.
    let held: i32 = sqlx::query_scalar(
        "insert into node (id, generation) values ($1, $2)
         on conflict (id) do update
            set generation = greatest(node.generation, excluded.generation),
                registered_at = case when node.generation <= excluded.generation then now() else node.registered_at end
         returning generation",
    )
    .bind(node.as_str())
    .bind(int(generation.get()))
    .fetch_one(&mut *transaction)
    .await?;
    let held = generation_from(held);
    if held != generation {
        return Ok(Err(held));
    }
    offer_models(&mut transaction, node, offers).await?;
    transaction.commit().await?;
    Ok(Ok(()))
}

async fn offer_models(
    connection: &mut PgConnection,
    node: &NodeId,
    offers: &[ModelOffer],
) -> Result<(), DatabaseError> {
    // In the order of ids: several nodes register at once.
    let mut offers: Vec<&ModelOffer> = offers.iter().collect();
    offers.sort_by(|a, b| a.id.cmp(&b.id));
    offers.dedup_by(|a, b| a.id == b.id);
    let ids: Vec<&str> = offers.iter().map(|offer| offer.id.as_str()).collect();
    let hashes: Vec<&[u8]> = offers
        .iter()
        .map(|offer| offer.sha256.as_bytes().as_slice())
        .collect();
    let families: Vec<&str> = offers.iter().map(|offer| offer.family.name()).collect();
    let bodies: Vec<Value> = offers
        .iter()
        .map(|offer| serde_json::to_value(offer).map_err(|error| sqlx::Error::Encode(error.into())))
        .collect::<Result<_, _>>()?;
    sqlx::query(
        // A row that says so already is not even locked: after a takeover all nodes of a model come at once.
        "insert into model (id, sha256, family, offer)
         select o.* from unnest($1::text[], $2::bytea[], $3::text[], $4::jsonb[]) as o (id, sha256, family, offer)
          where not exists (select from model m where (m.id, m.sha256, m.family, m.offer) = (o.id, o.sha256, o.family, o.offer))
         on conflict (id) do update
            set sha256 = excluded.sha256, family = excluded.family, offer = excluded.offer, updated_at = now()
          where (model.sha256, model.family, model.offer) is distinct from (excluded.sha256, excluded.family, excluded.offer)",
    )
    .bind(&ids)
    .bind(hashes)
    .bind(families)
    .bind(bodies)
    .execute(&mut *connection)
    .await?;
    sqlx::query("delete from node_offer where node_id = $1 and model_id <> all($2)")
        .bind(node.as_str())
        .bind(&ids)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "insert into node_offer (node_id, model_id) select $1, unnest($2::text[]) on conflict do nothing",
    )
    .bind(node.as_str())
    .bind(&ids)
    .execute(connection)
    .await?;
    Ok(())
}
