//! Goal: whoever waits for a clip sees what it will be, step after step, through every real part; and when it is there, nothing
//! of that is left.

use flowai::client::{NewVideo, Status};

use crate::one_job_goes_all_the_way::webp_chunks;
use crate::support::{TestFarm, within};

#[tokio::test(flavor = "multi_thread")]
async fn previews_are_seen_while_it_renders() {
    let farm = TestFarm::start(|_| ()).await;
    let user = farm.user().await;
    let video = NewVideo {
        frames: Some(14),
        width: Some(192),
        height: Some(128),
        steps: Some(100),
        ..user.small_video().await
    };
    let job = user.client.submit(&video).await.unwrap().id;
    let (mut newest, mut steps) = (0, Vec::new());
    let lie_in_store = || {
        let files = farm.files_below("s3").into_iter();
        files.filter(|file| file.contains("step-")).count()
    };
    while steps.len() < 2 {
        let path = format!("/v1/videos/{job}/preview?after={newest}");
        let answer = user.get(&farm, &path).await;
        assert!(
            answer.headers().contains_key("flowai-preview-n"),
            "the clip came before two previews: {steps:?}, {}",
            answer.status()
        );
        let number = |name: &str| -> u64 {
            let value = answer.headers()[name].to_str().unwrap();
            value.parse().unwrap()
        };
        assert!(number("flowai-preview-n") > newest);
        assert_eq!(number("flowai-attempt"), 1);
        newest = number("flowai-preview-n");
        steps.push(number("flowai-step"));
        let chunks = webp_chunks(&answer.bytes().await.unwrap());
        let frames = chunks.iter().filter(|chunk| *chunk == b"ANMF").count();
        assert!((4..=8).contains(&frames), "{frames} frames");
    }
    assert!(lie_in_store() > 0, "their names have changed");
    assert!(steps.is_sorted() && steps[1] < 100, "{steps:?}");

    let ended = user.follow(&job).until_end().await;
    assert_eq!(ended.status, Status::Done);
    let path = format!("/v1/videos/{job}/preview?after={newest}");
    let answer = user.get(&farm, &path).await;
    assert!(!answer.headers().contains_key("flowai-preview-n"));
    assert_eq!(answer.headers()["content-type"], "image/webp");
    let gone = async {
        while lie_in_store() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("the store holds no preview", gone).await;
    farm.stop().await;
}
