//! Goal: a submission that names what was removed after it was looked for learns which kind of thing it was, and nothing of
//! it stays.
//! Method: the api's statements, in the order of the race.

use flowai_actors::ids::{AdapterId, JobId, UploadId};
use flowai_store::database::commit;
use flowai_store::videos::{NewVideo, Queueing};
use flowai_store::{adapters, uploads};
use serde_json::json;

use crate::farm::{Farm, spec};

#[tokio::test]
async fn what_was_removed_meanwhile_is_missed_by_its_kind() {
    let mut farm = Farm::start().await;
    let (image, adapter) = (UploadId::generate(), AdapterId::generate());
    let user = farm.user;
    farm.run(&format!(
        "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
         values ('{image}', '{user}', 'image', sha256('j'), 1, 'image/png', 8, 8, 'j')"
    ))
    .await;
    farm.run(&format!(
        "insert into adapter (id, owner_id, name, sha256, bytes, family, report, object_key)
         values ('{adapter}', '{user}', 'a', sha256('a'), 1, 'svd', '{{}}', 'a')"
    ))
    .await;
    let mut early = farm.app.begin_as(user).await.unwrap();
    let removed = uploads::remove(&mut early, image).await.unwrap();
    assert!(matches!(removed, uploads::Removal::Removed { .. }));
    let removed = adapters::remove(&mut early, adapter).await.unwrap();
    assert!(matches!(removed, uploads::Removal::Removed { .. }));
    commit(early).await.unwrap();

    let kept = UploadId::from_uuid(user.as_uuid());
    let purged = Some(JobId::generate());
    let spec = spec();
    for (image, adapters, parent, expected) in [
        (image, &[][..], None, Queueing::NoImage),
        (kept, &[adapter], None, Queueing::NoAdapter),
        (kept, &[], purged, Queueing::NoParent),
    ] {
        let video = NewVideo {
            adapters,
            parent,
            ..NewVideo::new(user, &spec, Some(image))
        };
        let queueing = farm.intake.queue(&[video], None, (202, &json!({}))).await;
        assert_eq!(queueing.unwrap(), expected);
        assert_eq!(farm.text("select count(*) from job").await, "0");
    }
}
