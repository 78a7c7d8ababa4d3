//! Goal: a delivered keyframe is one of its owner's pictures, to be animated again, and outlives the video that it was made
//! for; one that was not delivered is nobody's.
//! Method: the leader's changes and the api's statements, by the owner and by a stranger.

use flowai_actors::ids::{Attempt, JobId, Sha256, UploadId, UserId};
use flowai_actors::messages::ArtefactFile;
use flowai_actors::spec::{FirstFrame, RenderSpec};
use flowai_store::database::commit;
use flowai_store::journal::{Change, Keyframe, Unfinished, Written, artefact_key, clips_prefix};
use flowai_store::sources::{self, FirstFrameFiles, SourcesError};
use flowai_store::uploads::{self, Purpose, Removal};
use flowai_store::videos::{self, NewVideo, Purge, Video};

use crate::farm::{Farm, held, settle_with, spec, spec_of_words};

const KEYFRAME: Keyframe = Keyframe {
    sha256: Sha256::from_bytes([5; 32]),
    bytes: 11,
    size: (64, 48),
};

impl Farm {
    async fn find_upload(&self, user: UserId, id: UploadId) -> Option<uploads::Upload> {
        let mut transaction = self.app.begin_as(user).await.unwrap();
        uploads::find(&mut transaction, id).await.unwrap()
    }

    async fn remove_upload(&self, id: UploadId) -> Removal {
        let mut transaction = self.app.begin_as(self.user).await.unwrap();
        uploads::remove(&mut transaction, id).await.unwrap()
    }

    async fn find_video(&self, id: JobId) -> Video {
        let mut transaction = self.app.begin_as(self.user).await.unwrap();
        let video = videos::find(&mut transaction, id).await.unwrap();
        video.unwrap()
    }

    async fn purge(&self, id: JobId) -> Purge {
        let mut transaction = self.app.begin_as(self.user).await.unwrap();
        let purge = videos::purge(&mut transaction, id).await.unwrap();
        commit(transaction).await.unwrap();
        purge
    }

    /// A job that was made from words in its second attempt.
    async fn delivered(&self) -> (JobId, UploadId) {
        let job = self.queue_words().await;
        self.write(Change::Assign(held(job, 1))).await;
        self.write(Change::Requeue {
            held: held(job, 1),
            outcome: Unfinished::Lost,
            reason: "its node fell silent".to_owned(),
            checkpoint: None,
        })
        .await;
        self.write(Change::Assign(held(job, 2))).await;
        assert_eq!(self.find_video(job).await.keyframe, None);
        let settle = settle_with(held(job, 2), spec_of_words(), Some(KEYFRAME));
        assert_eq!(self.write(settle.clone()).await, Written::Now(self.user));
        let keyframe = self.find_video(job).await.keyframe.unwrap();
        // Told twice it is one picture.
        assert_eq!(self.write(settle).await, Written::Before(self.user));
        assert_eq!(self.find_video(job).await.keyframe, Some(keyframe));
        (job, keyframe)
    }
}

#[tokio::test]
async fn its_owner_and_nobody_else_may_animate_it_again() {
    let mut farm = Farm::start().await;
    let stranger = UserId::generate();
    farm.sign_up(stranger).await;
    let (job, keyframe) = farm.delivered().await;
    let picture = farm.find_upload(farm.user, keyframe).await.unwrap();
    assert_eq!(picture.purpose, Purpose::Image);
    assert_eq!(picture.sha256, KEYFRAME.sha256);
    assert_eq!(
        (picture.bytes, picture.size),
        (KEYFRAME.bytes, Some(KEYFRAME.size))
    );
    assert_eq!(picture.content_type, "image/png");
    let key = artefact_key(job, Attempt::new(2), ArtefactFile::Keyframe);
    assert_eq!(picture.object_key, key);
    assert!(
        !key.starts_with(&clips_prefix(job)),
        "it goes with the clip"
    );
    assert!(farm.find_upload(stranger, keyframe).await.is_none());

    let spec = RenderSpec {
        first_frame: FirstFrame::Image(KEYFRAME.sha256),
        ..spec()
    };
    let again = farm
        .submit(&NewVideo::new(farm.user, &spec, Some(keyframe)))
        .await;
    let sources = sources::of_job(&farm.database, again).await.unwrap();
    assert!(
        matches!(&sources.first_frame, FirstFrameFiles::Image(file) if file.key == key),
        "{sources:?}"
    );
}

#[tokio::test]
async fn it_stays_when_its_video_goes_and_goes_by_itself_afterwards() {
    let farm = Farm::start().await;
    let (job, keyframe) = farm.delivered().await;
    assert_eq!(farm.remove_upload(keyframe).await, Removal::InUse);
    let lost = artefact_key(job, Attempt::new(1), ArtefactFile::Keyframe);
    assert_eq!(
        farm.purge(job).await,
        Purge::Purged {
            picture_key: None,
            keyframe_keys: vec![lost],
        }
    );
    let picture = farm.find_upload(farm.user, keyframe).await.unwrap();
    let object_key = picture.object_key;
    assert_eq!(
        farm.remove_upload(keyframe).await,
        Removal::Removed { object_key }
    );
}

#[tokio::test]
async fn a_video_that_was_made_of_it_takes_it_along_only_when_nothing_else_names_it() {
    let farm = Farm::start().await;
    let (draft, keyframe) = farm.delivered().await;
    let spec = RenderSpec {
        first_frame: FirstFrame::Image(KEYFRAME.sha256),
        ..spec()
    };
    let ended = async || {
        let new = NewVideo::new(farm.user, &spec, Some(keyframe));
        let job = farm.submit(&new).await;
        farm.write(Change::Assign(held(job, 1))).await;
        farm.write(Change::Cancel {
            held: held(job, 1),
            steps: None,
        })
        .await;
        job
    };
    let (first, second) = (ended().await, ended().await);
    let kept = Purge::Purged {
        picture_key: None,
        keyframe_keys: Vec::new(),
    };
    assert_eq!(farm.purge(first).await, kept);
    farm.purge(draft).await;
    let taken = farm.purge(second).await;
    assert!(
        matches!(
            taken,
            Purge::Purged {
                picture_key: Some(_),
                ..
            }
        ),
        "{taken:?}"
    );
}

#[tokio::test]
async fn words_need_no_picture_and_their_adapters_are_never_left_out() {
    let mut farm = Farm::start().await;
    let job = farm.queue_words().await;
    let sources = sources::of_job(&farm.database, job).await.unwrap();
    assert_eq!(sources.spec, spec_of_words());
    assert_eq!(sources.first_frame, FirstFrameFiles::Keyframe(Vec::new()));
    // As if the row of one had gone.
    farm.run(&format!(
        "update job set spec = jsonb_set(spec, '{{first_frame,keyframe,adapters}}',
                                         '[{{\"sha256\": \"{}\", \"weight\": 1}}]') where id = '{job}'",
        KEYFRAME.sha256
    ))
    .await;
    let refused = sources::of_job(&farm.database, job).await;
    assert!(matches!(refused, Err(SourcesError::Adapter(sha256)) if sha256 == KEYFRAME.sha256));
}

#[tokio::test]
async fn a_draft_keeps_what_its_final_will_be() {
    let farm = Farm::start().await;
    let (draft, full) = (
        spec_of_words(),
        RenderSpec {
            steps: 9,
            ..spec_of_words()
        },
    );
    let new = NewVideo {
        final_spec: Some(&full),
        ..NewVideo::new(farm.user, &draft, None)
    };
    let video = farm.submit(&new).await;
    let video = farm.find_video(video).await;
    assert_eq!((video.spec, video.final_spec), (draft, Some(full)));
}
