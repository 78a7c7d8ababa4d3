//! Goal: whoever renders sees the newest picture of it, at their own pace, and nobody else does; what is late covers nothing.

use bytes::Bytes;
use flowai_actors::ids::{Attempt, JobId, UserId};
use flowai_actors::preview::PreviewReady;
use flowai_store::journal::preview_key;
use reqwest::Method;

use crate::farm::{Answer, Caller, Farm};

/// A node has put the picture of a step into the store, and the leader says so.
async fn placed(farm: &Farm, user: UserId, video: &str, step: u32) -> PreviewReady {
    let job: JobId = video.parse().unwrap();
    let attempt = Attempt::new(1);
    let webp = Bytes::from(format!("picture of step {step}"));
    let key = preview_key(job, attempt, step);
    farm.objects.put(&key, webp, "image/webp").await.unwrap();
    let ready = PreviewReady {
        user,
        job,
        attempt,
        step,
    };
    farm.leader.say(&ready);
    ready
}

async fn newer(caller: &Caller, video: &str, after: u64, wait_s: u32) -> Answer {
    let path = format!("/v1/videos/{video}/preview?after={after}");
    let request = caller.request(Method::GET, &path);
    Answer::of(request.header("prefer", format!("wait={wait_s}"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_preview_is_given_as_soon_as_it_is_there() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let video = ada.video().await;
    newer(&ada, &video, 0, 0).await.expect(204);
    let user = farm.leader.assign(&video).await;

    let (answer, first) = tokio::join!(newer(&ada, &video, 0, 25), placed(&farm, user, &video, 1));
    answer.expect(200);
    assert_eq!(answer.body, "picture of step 1");
    let number = first.number();
    for (name, value) in [
        ("content-type", "image/webp"),
        ("cache-control", "no-store"),
        ("flowai-preview-n", &*number.to_string()),
        ("flowai-attempt", "1"),
        ("flowai-step", "1"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    newer(&ada, &video, number, 0).await.expect(204);

    // Between two questions: only the newest counts, also when the one before is gone and when a late word comes.
    placed(&farm, user, &video, 2).await;
    let third = placed(&farm, user, &video, 3).await;
    let second = preview_key(first.job, first.attempt, 2);
    farm.objects.delete(&second).await.unwrap();
    placed(&farm, user, &video, 1).await;
    let answer = newer(&ada, &video, number, 25).await;
    assert_eq!(answer.expect(200).body, "picture of step 3");
    newer(&ada, &video, third.number(), 0).await.expect(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_is_its_owners_and_covers_no_clip() {
    let farm = Farm::start().await;
    let (ada, bob) = (farm.user("ada").await, farm.user("bob").await);
    let video = ada.video().await;
    newer(&bob, &video, 0, 1).await.expect(404);
    newer(&farm.stranger(), &video, 0, 1).await.expect(401);

    // Whoever waits hears of the end.
    let (answer, ()) = tokio::join!(newer(&ada, &video, 0, 25), async {
        farm.deliver(&video).await;
        let me = ada.get("/v1/me").await.expect(200).json();
        farm.leader
            .hint(me["id"].as_str().unwrap().parse().unwrap());
    });
    answer.expect(302);
    let me = ada.get("/v1/me").await.expect(200).json();
    let user: UserId = me["id"].as_str().unwrap().parse().unwrap();
    placed(&farm, user, &video, 2).await;
    let answer = newer(&ada, &video, 0, 1).await;
    assert!(answer.expect(302).header("location").contains("/v1/media/"));
    let odd = ada
        .get(&format!("/v1/videos/{video}/preview?after=x"))
        .await;
    odd.expect_problem(422, "validation_failed");
}
