//! Goal: a picture and an adapter become a clip that plays, through every real part, and the clip is what its manifest says.

use std::time::Duration;

use flowai::client::{AdapterWeight, NewVideo, Purpose, Status};
use flowai_actors::manifest::Manifest;
use flowai_actors::spec::FirstFrame;
use flowai_model::ModelFolder;
use serde_json::{Value, json};

use crate::support::{
    PICTURE, Probe, TestFarm, User, probe, sha256_of, store_random_adapter, within,
};

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
        image: Some(image.id.clone()),
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
    assert_eq!(manifest.engine.version, env!("CARGO_PKG_VERSION"));
    let libtorch = manifest.engine.libtorch.as_deref().unwrap();
    assert!(libtorch.starts_with("2."), "{libtorch}");
    let encoder = &manifest.engine.encoder;
    assert!(encoder.contains("libx264 "), "{encoder}");
    assert_eq!(manifest.node.as_str(), "node-1");
    assert_eq!(manifest.attempt.get(), 1);
    assert!(!manifest.device_class.is_empty());
    assert_eq!(
        manifest.model_sha256.to_string(),
        identity.sha256.to_string()
    );
    assert_eq!(manifest.spec.first_frame, FirstFrame::Image(image.sha256));
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
    small_pictures_are_webp(&farm, &user, &job.id).await;
    operator_sees_the_node_work(&farm, &user, &manifest).await;
    every_part_is_ready(&farm, &user).await;
    farm.stop().await;
}

async fn small_pictures_are_webp(farm: &TestFarm, user: &User, job: &str) {
    for (name, is_animated) in [("poster", false), ("preview", true)] {
        let path = format!("/v1/videos/{job}/{name}");
        let answer = user.get(farm, &path).await;
        assert_eq!(answer.headers()["content-type"], "image/webp", "{name}");
        let chunks = webp_chunks(&answer.bytes().await.unwrap());
        let has = |chunk: &[u8; 4]| chunks.contains(chunk);
        assert_eq!(has(b"ANIM") && has(b"ANMF"), is_animated, "{name}");
        assert_eq!(has(b"VP8 "), !is_animated, "{name}");
    }
}

/// The names of a WebP file's chunks, which must fill it.
fn webp_chunks(file: &[u8]) -> Vec<[u8; 4]> {
    let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!((&file[..4], &file[8..12]), (&b"RIFF"[..], &b"WEBP"[..]));
    assert_eq!(number(4) + 8, file.len());
    let mut chunks = Vec::new();
    let mut at = 12;
    while at < file.len() {
        chunks.push(file[at..at + 4].try_into().unwrap());
        // A chunk of odd length is followed by a zero.
        at += 8 + number(at + 4).next_multiple_of(2);
    }
    assert_eq!(at, file.len());
    chunks
}

/// One job runs, one waits behind it: the counts of the queues, and what the node says of itself.
async fn operator_sees_the_node_work(farm: &TestFarm, user: &User, manifest: &Manifest) {
    let operator = farm.operator().await;
    let see = async |path: &str| -> Value { operator.get(farm, path).await.json().await.unwrap() };
    let long = NewVideo {
        frames: Some(8),
        width: Some(128),
        height: Some(96),
        steps: Some(100),
        ..user.small_video().await
    };
    let running = user.client.submit(&long).await.unwrap().id;
    let mut follow = user.follow(&running);
    follow.until_denoising().await;
    let waiting = user.client.submit(&long).await.unwrap().id;
    let queues = json!({ "data": [
        { "tier": "free", "queued": 1, "running": 1 },
        { "tier": "pro", "queued": 0, "running": 0 },
        { "tier": "studio", "queued": 0, "running": 0 },
    ]});
    // The leader hears of a job a moment after its submission was answered.
    let counted = async {
        while see("/v1/farm/queues").await != queues {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("one job runs and one waits", counted).await;

    let node = see(&format!("/v1/farm/nodes/{}", manifest.node)).await;
    assert_eq!(node["id"], manifest.node.as_str());
    assert_eq!(node["version"], manifest.engine.version);
    assert_eq!(node["models"], json!(["small"]));
    assert_eq!(node["device_class"], manifest.device_class);
    assert_eq!(node["running"], json!({ "video": running, "attempt": 1 }));

    for job in [&waiting, &running] {
        user.client.cancel(job).await.unwrap();
        let ended = user.follow(job).until_end().await;
        assert_eq!(ended.status, Status::Cancelled);
    }
}

async fn every_part_is_ready(farm: &TestFarm, user: &User) {
    let answer: Value = user.get(farm, "/readyz").await.json().await.unwrap();
    let ready = json!({
        "ready": true,
        "draining": false,
        "database": true,
        "redis": true,
        "object_store": true,
        "leader": true,
    });
    assert_eq!(answer, ready);
}
