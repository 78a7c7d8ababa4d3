//! Goal: a purged video leaves no row and no file, also none of attempts that were lost; what other videos need stays.

use bytes::Bytes;

use crate::farm::{Farm, wish};

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_removes_every_file_and_keeps_what_others_need() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let picture = ada.picture().await;
    let mut videos = Vec::new();
    for _ in 0..2 {
        let video = ada
            .post("/v1/videos", &wish(&picture))
            .await
            .expect(202)
            .id();
        farm.deliver(&video).await;
        videos.push(video);
    }
    let [first, second] = &videos[..] else {
        panic!("{videos:?}");
    };
    // What a node left that was given up.
    let lost = format!("clips/{first}/9/clip.mp4");
    let clip = Bytes::from_static(b"a clip");
    farm.objects.put(&lost, clip, "video/mp4").await.unwrap();

    ada.delete(&format!("/v1/videos/{first}?purge=true"))
        .await
        .expect(204);
    let files = async |prefix: String| farm.objects.list(&prefix, None, 100).await.unwrap();
    assert_eq!(files(format!("clips/{first}/")).await, []);
    assert_ne!(files(format!("clips/{second}/")).await, []);
    ada.get(&format!("/v1/uploads/{picture}")).await.expect(200);
    ada.get(&format!("/v1/videos/{first}")).await.expect(404);
    ada.get(&format!("/v1/videos/{second}/content"))
        .await
        .expect(302);

    ada.delete(&format!("/v1/videos/{second}?purge=true"))
        .await
        .expect(204);
    ada.get(&format!("/v1/uploads/{picture}")).await.expect(404);
    assert_eq!(files("clips/".to_owned()).await, []);
    assert_eq!(files("uploads/".to_owned()).await, []);

    // The api remembers the picture of the submissions before.
    let refused = ada.post("/v1/videos", &wish(&picture)).await;
    refused.expect_problem(404, "not_found");
    assert!(refused.json()["detail"].to_string().contains(&picture));
}
