//! Goal: a picture and an adapter become a clip that plays, through every real part, and the clip is what its manifest says.

use flowai::client::{AdapterWeight, NewVideo, Purpose, Status};
use flowai_model::ModelFolder;

use crate::support::{PICTURE, Probe, TestFarm, probe, sha256_of, store_random_adapter};

#[tokio::test(flavor = "multi_thread")]
async fn one_job_goes_all_the_way() {
    let farm = TestFarm::start(|_| ()).await;
    let user = farm.user().await;
    let model = ModelFolder::check(&farm.farm().folder().models().join("small")).unwrap();
    let identity = model.identify().unwrap();
    let (adapter, adapter_sha256) = store_random_adapter(&farm, &user.client).await;
    let image = user
        .client
        .upload(Purpose::Image, "cat.png", PICTURE.into())
        .await
        .unwrap();
    let video = NewVideo {
        image: image.id.clone(),
        adapters: vec![AdapterWeight {
            id: adapter,
            weight: 0.5,
        }],
        frames: Some(5),
        fps: Some(6),
        width: Some(96),
        height: Some(64),
        steps: Some(4),
        seed: Some(42),
        ..NewVideo::default()
    };

    let job = user.client.submit(&video).await.unwrap();
    assert_eq!(job.status, Status::Queued);
    let mut follow = user.follow(&job.id);
    follow.until_done().await;
    let progress = &follow.seen().progress;
    assert!(
        progress.iter().all(|p| p.steps == 4 && p.step <= 4),
        "{progress:?}"
    );
    assert!(!progress.is_empty());

    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.mp4");
    let manifest = user.client.download(&job.id, &clip).await.unwrap();
    assert_eq!(
        probe(&clip),
        Probe {
            codec: "h264".to_owned(),
            pixel_format: "yuv420p".to_owned(),
            width: 96,
            height: 64,
            frames: "5".to_owned(),
            rate: "6/1".to_owned(),
        }
    );
    assert_eq!(sha256_of(&clip), manifest.clip_sha256.to_string());
    assert_eq!(manifest.clip_bytes, clip.metadata().unwrap().len());
    assert_eq!(manifest.job.to_string(), job.id);
    assert_eq!(manifest.engine.name, "svd");
    assert_eq!(
        manifest.model_sha256.to_string(),
        identity.sha256.to_string()
    );
    assert_eq!(manifest.spec.image, image.sha256);
    assert_eq!(manifest.spec.seed, 42);
    let [fused] = &manifest.adapters[..] else {
        panic!("{:?}", manifest.adapters);
    };
    assert_eq!((fused.sha256, fused.weight), (adapter_sha256, 0.5));
    assert!(fused.modules > 0);
    farm.assert_delivered_once(&job.id).await;

    // The same wish is the same clip; without the adapter it is another (INV-10, INV-11).
    let again = user.client.submit(&video).await.unwrap();
    let plain = NewVideo {
        adapters: Vec::new(),
        ..video
    };
    let plain = user.client.submit(&plain).await.unwrap();
    let mut clips = Vec::new();
    for job in [&again.id, &plain.id] {
        user.follow(job).until_done().await;
        clips.push(user.client.manifest(job).await.unwrap().clip_sha256);
    }
    assert_eq!(clips[0], manifest.clip_sha256);
    assert_ne!(clips[1], manifest.clip_sha256);
    farm.stop().await;
}
