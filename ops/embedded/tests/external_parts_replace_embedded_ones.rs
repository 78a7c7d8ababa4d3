//! Goal: `DATABASE_URL`, `REDIS_URL` and `S3_ENDPOINT` each replace one part, and the code behind sees no difference.
//! Method: the embedded parts of one farm serve as the external ones of another.
#![allow(clippy::unwrap_used)]

mod support;

use flowai_embedded::{Error, External, Parts};
use sqlx::Executor;

#[tokio::test]
async fn every_part_can_be_external() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let host = Parts::start(folder.path(), External::default())
        .await
        .unwrap();
    let external = External {
        database_url: Some(host.database().owner.clone()),
        redis_url: Some(host.redis_url().to_owned()),
        s3: Some(host.s3().clone()),
    };

    let guest = Parts::start(other.path(), external.clone()).await.unwrap();
    assert!(guest.postgres().is_none() && guest.redis().is_none());
    assert_eq!(guest.redis_url(), host.redis_url());
    assert_eq!(guest.s3().endpoint, host.s3().endpoint);

    // What migrations do with the passwords that the parts hand out.
    let app = guest.database_passwords().app.clone();
    let mut owner = support::connect(&guest.database().owner).await;
    let role = sqlx::AssertSqlSafe(format!("create role flowai_app login password '{app}'"));
    owner.execute(role).await.unwrap();
    support::connect(&guest.database().app)
        .await
        .execute("select 1")
        .await
        .unwrap();

    drop(guest);
    let again = Parts::start(other.path(), external).await.unwrap();
    assert_eq!(
        again.database_passwords().app,
        app,
        "the roles' passwords must outlive a restart"
    );
}

#[tokio::test]
async fn an_unusable_database_url_is_named() {
    for url in ["", "mysql://somewhere/flowai", "not a url"] {
        let folder = tempfile::tempdir().unwrap();
        let external = External {
            database_url: Some(url.to_owned()),
            ..External::default()
        };
        let refused = Parts::start(folder.path(), external).await;
        assert!(
            matches!(
                refused,
                Err(Error::Address {
                    name: "DATABASE_URL",
                    ..
                })
            ),
            "{url:?}: {refused:?}"
        );
    }
}
