//! Goal: whoever removes a video and whoever removes its picture at the same moment both get an answer. Method: many such pairs.

use flowai_actors::ids::{JobId, UploadId, UserId};
use flowai_store::database::{self, Database, DatabaseError};
use flowai_store::uploads;
use flowai_store::videos::{self, NewVideo};

use crate::farm::{Farm, spec};

const PAIRS: u32 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_video_and_its_picture_are_removed_side_by_side() {
    let mut farm = Farm::start().await;
    let user = farm.user;
    for _ in 0..PAIRS {
        let image = UploadId::generate();
        farm.run(&format!(
            "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
             values ('{image}', '{user}', 'image', sha256('i'), 1, 'image/png', 8, 8, 'k')"
        ))
        .await;
        let spec = spec();
        let job = farm.submit(&NewVideo::new(user, &spec, Some(image))).await;
        farm.run(&format!(
            "update job_state set state = 'cancelled', finished_at = now(), cancel_requested_at = now() where job_id = '{job}'"
        ))
        .await;
        let video = tokio::spawn(purge(farm.app.clone(), user, job));
        let picture = tokio::spawn(remove(farm.app.clone(), user, image));
        video.await.unwrap().unwrap();
        picture.await.unwrap().unwrap();
        let left = format!("select count(*) from job where id = '{job}'");
        assert_eq!(farm.text(&left).await, "0");
    }
}

async fn purge(app: Database, user: UserId, job: JobId) -> Result<(), DatabaseError> {
    let mut transaction = app.begin_as(user).await?;
    videos::purge(&mut transaction, job).await?;
    database::commit(transaction).await
}

async fn remove(app: Database, user: UserId, image: UploadId) -> Result<(), DatabaseError> {
    let mut transaction = app.begin_as(user).await?;
    // One that a video names stays.
    uploads::remove(&mut transaction, image).await?;
    database::commit(transaction).await
}
