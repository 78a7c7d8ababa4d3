//! Goal: what an older version wrote can be read after the migrations.
//! Method: its rows are written before the migration that changes their layout runs.

use flowai_actors::ids::{JobId, UserId};
use flowai_actors::manifest::Manifest;
use flowai_actors::spec::{FirstFrame, RenderSpec};
use flowai_embedded::{Listen, Postgres};
use serde_json::{Value, json};
use sqlx::migrate::Migrator;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::farm::{held, settle_with, spec};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// As specs were written before a first frame could be made from words.
fn old_spec() -> Value {
    let mut spec = serde_json::to_value(spec()).unwrap();
    spec["image"] = spec["first_frame"]["image"].take();
    spec.as_object_mut().unwrap().remove("first_frame");
    spec
}

#[tokio::test]
async fn specs_and_manifests_that_named_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let server = Postgres::start(folder.path(), Listen::Socket)
        .await
        .unwrap();
    let mut owner = PgConnection::connect(&server.urls().owner).await.unwrap();
    MIGRATIONS.run_to(7, &mut owner).await.unwrap();
    let (user, job) = (UserId::generate(), JobId::generate());
    let flowai_store::journal::Change::Settle { artefact, .. } =
        settle_with(held(job, 1), spec(), None)
    else {
        panic!("a settle")
    };
    let mut manifest = serde_json::to_value(&artefact.manifest).unwrap();
    manifest["manifest_version"] = json!(1);
    manifest["spec"] = old_spec();
    for statement in [
        format!("insert into account (id, email) values ('{user}', 'ada@example.org')"),
        format!(
            "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
             values ('{user}', '{user}', 'image', sha256('i'), 1, 'image/png', 8, 8, 'k')"
        ),
        "insert into model (id, sha256, family, offer) values ('tiny', sha256('m'), 'svd', '{}')".to_owned(),
        format!(
            "insert into job (id, owner_id, spec, model_id, image_id) values ('{job}', '{user}', '{}', 'tiny', '{user}')",
            old_spec()
        ),
        format!(
            "insert into artefact (job_id, owner_id, attempt, clip_sha256, clip_bytes, clip_key, poster_key, preview_key,
                                   spritesheet_key, manifest)
             values ('{job}', '{user}', 1, sha256('c'), 9, 'c', 'p', 'v', 's', '{manifest}')"
        ),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut owner).await.unwrap();
    }
    MIGRATIONS.run(&mut owner).await.unwrap();

    let Json(read): Json<RenderSpec> = sqlx::query_scalar("select spec from job")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert!(matches!(read.first_frame, FirstFrame::Image(_)));
    assert_eq!(read, spec());
    let Json(read): Json<Manifest> = sqlx::query_scalar("select manifest from artefact")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert_eq!(read, artefact.manifest);

    // Whoever was there before there were credits can go on, and what they had is no imbalance.
    let available: i64 = sqlx::query_scalar("select available_mc from credit_balances")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert_eq!(available, 1_000_000);
    let imbalances: i64 = sqlx::query_scalar("select count(*) from ledger_imbalances")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert_eq!(imbalances, 0);
}
