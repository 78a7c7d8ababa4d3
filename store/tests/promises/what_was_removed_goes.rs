//! Goal: objects whose rows were removed go, also when the api that removed the rows ended right after its commit, or the object store was
//! away. Method: an api's removal that comes no further than its commit, and the leader's sweep.

use std::time::Duration;

use flowai_actors::ids::UserId;
use flowai_embedded::S3;
use flowai_store::database::commit;
use flowai_store::leftovers::{Leftovers, sweep};
use flowai_store::objects::{Objects, ObjectsConfig};

use crate::farm::Farm;

fn objects_of(s3: &S3, secret: &str) -> Objects {
    let access = s3.access();
    Objects::new(&ObjectsConfig {
        endpoint: access.endpoint.clone(),
        region: access.region.clone(),
        bucket: access.bucket.clone(),
        access_key_id: access.access_key_id.clone(),
        secret_access_key: secret.to_owned(),
    })
}

#[tokio::test]
async fn what_was_removed_goes() {
    let mut farm = Farm::start().await;
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await.unwrap();
    let objects = objects_of(&s3, &s3.access().secret_access_key);
    let upload = format!("uploads/{}/a.png", farm.user);
    let job = "0198f1de-0000-7000-8000-000000000001";
    let clips = |attempt| format!("clips/{job}/{attempt}/clip.mp4");
    let others = "clips/0198f1de-0000-7000-8000-000000000002/1/clip.mp4";
    for key in [&upload, &clips(1), &clips(2), others] {
        let bytes = bytes::Bytes::from_static(b"x");
        objects.put(key, bytes, "video/mp4").await.unwrap();
    }
    let removed = Leftovers {
        keys: vec![upload],
        prefixes: vec![format!("clips/{job}/")],
    };
    let mut transaction = farm.app.begin_as(farm.user).await.unwrap();
    let recorded = removed.record(&mut transaction).await.unwrap();
    commit(transaction).await.unwrap();
    // The object store refuses, and the api goes on.
    let elsewhere = objects_of(&s3, "not the secret");
    assert!(
        recorded
            .remove(&farm.app, farm.user, &elsewhere)
            .await
            .is_err()
    );
    let left = "select count(*) from leftover";
    assert_eq!(farm.text(left).await, "2");

    // An api may be at it.
    let young = sweep(&farm.database, &objects, Duration::from_secs(60));
    assert_eq!(young.await.unwrap(), 0);
    let refused = sweep(&farm.database, &elsewhere, Duration::ZERO);
    assert!(refused.await.is_err());
    assert_eq!(farm.text(left).await, "2");
    let swept = sweep(&farm.database, &objects, Duration::ZERO);
    assert_eq!(swept.await.unwrap(), 2);
    assert_eq!(farm.text(left).await, "0");
    let rest = objects.list("", None, 10).await.unwrap();
    let rest: Vec<&str> = rest.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(rest, [others]);
}

#[tokio::test]
async fn a_removal_that_comes_to_its_end_leaves_nothing_written_down() {
    let mut farm = Farm::start().await;
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await.unwrap();
    let objects = objects_of(&s3, &s3.access().secret_access_key);
    let mut transaction = farm.app.begin_as(farm.user).await.unwrap();
    let removed = Leftovers::key(format!("uploads/{}/a.png", farm.user));
    let recorded = removed.record(&mut transaction).await.unwrap();
    commit(transaction).await.unwrap();
    let of_another = "select count(*) from leftover";
    let mut stranger = farm.app.begin_as(UserId::generate()).await.unwrap();
    let seen: i64 = sqlx::query_scalar(of_another)
        .fetch_one(&mut *stranger)
        .await
        .unwrap();
    assert_eq!(seen, 0);
    drop(stranger);
    recorded
        .remove(&farm.app, farm.user, &objects)
        .await
        .unwrap();
    assert_eq!(farm.text(of_another).await, "0");
}

/// The leader removes what is written down, with rights of its own.
#[tokio::test]
async fn no_more_is_written_down_than_a_removal_leaves() {
    let farm = Farm::start().await;
    let job = "0198f1de-0000-7000-8000-000000000001";
    let of_another = format!("uploads/{}/a.png", UserId::generate());
    for (key, prefix) in [
        (None, Some("uploads/")),
        (None, Some("clips/")),
        (None, Some("")),
        (Some(of_another.as_str()), None),
        (Some("clips/"), None),
        (Some(job), None),
    ] {
        let owned = |name: Option<&str>| name.map(str::to_owned).into_iter().collect();
        let removed = Leftovers {
            keys: owned(key),
            prefixes: owned(prefix),
        };
        let mut transaction = farm.app.begin_as(farm.user).await.unwrap();
        let refused = removed.record(&mut transaction).await;
        assert!(refused.is_err(), "{key:?} {prefix:?}");
    }
    let keyframe = Leftovers::key(format!("clips/{job}/2/keyframe.png"));
    let mut transaction = farm.app.begin_as(farm.user).await.unwrap();
    keyframe.record(&mut transaction).await.unwrap();
}
