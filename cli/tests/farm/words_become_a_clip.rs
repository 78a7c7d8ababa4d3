//! Goal: a prompt becomes a clip on a farm with a keyframe model; its first frame is its owner's, to be animated again; and a
//! draft is continued from the very picture that was made for it.
//! Method: tiny random models of both kinds, through every real part, by the client and by the command.

use flowai::client::{NewKeyframe, NewVideo, Video};
use flowai_actors::manifest::Manifest;
use flowai_actors::spec::FirstFrame;
use flowai_model::adapter::{AdapterFormat, ModuleTable};
use flowai_model::safetensors::Dtype;
use flowai_model::synthetic::{AdapterSpec, adapter_bytes};
use flowai_model::{KeyframePreset, Preset, synthetic};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::support::{Flowai, TestFarm, User, probe, sha256_of};

/// A farm whose node offers `tiny`, which makes clips, and `painter`, which makes keyframes.
async fn farm() -> (TestFarm, TempDir) {
    let models = tempfile::tempdir().unwrap();
    let tiny = models.path().join("tiny");
    synthetic::write_model(&tiny, &Preset::Tiny.config(), 0, Dtype::F32).unwrap();
    let painter = models.path().join("painter");
    let config = KeyframePreset::Tiny.config();
    synthetic::write_stable_diffusion(&painter, &config, 0, Dtype::F32).unwrap();
    let folder = models.path().to_owned();
    (
        TestFarm::start(|options| options.models = Some(folder)).await,
        models,
    )
}

/// A small render of words.
fn words() -> NewVideo {
    NewVideo {
        prompt: Some("a cat on a roof".to_owned()),
        negative_prompt: Some("rain".to_owned()),
        keyframe: Some(NewKeyframe {
            steps: Some(4),
            adapters: Vec::new(),
        }),
        frames: Some(4),
        fps: Some(8),
        width: Some(64),
        height: Some(48),
        steps: Some(3),
        seed: Some(1),
        ..NewVideo::default()
    }
}

async fn rendered(user: &User, video: &NewVideo) -> (Box<Video>, Manifest) {
    let job = user.client.submit(video).await.unwrap();
    let done = user.follow(&job.id).until_done().await;
    let manifest = user.client.manifest(&job.id).await.unwrap();
    (done, manifest)
}

/// The bytes of a video's keyframe, which must be those that its manifest names.
async fn keyframe_of(farm: &TestFarm, user: &User, manifest: &Manifest) -> Vec<u8> {
    let path = format!("/v1/videos/{}/keyframe", manifest.job);
    let answer = user.get(farm, &path).await;
    assert_eq!(answer.headers()["content-type"], "image/png");
    let bytes = answer.bytes().await.unwrap();
    let made = manifest.keyframe.as_ref().unwrap();
    assert_eq!(made.bytes, bytes.len() as u64);
    assert_eq!(hex::encode(Sha256::digest(&bytes)), made.sha256.to_string());
    bytes.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn words_become_a_clip_and_their_picture_is_animated_again() {
    let (farm, _models) = farm().await;
    let user = farm.user().await;
    // Long enough to be seen.
    let words = || NewVideo {
        keyframe: Some(NewKeyframe {
            steps: Some(60),
            adapters: Vec::new(),
        }),
        ..words()
    };
    let job = user.client.submit(&words()).await.unwrap();
    let mut follow = user.follow(&job.id);
    let done = follow.until_done().await;
    let progress = &follow.seen().progress;
    assert!(
        progress
            .iter()
            .any(|p| p.phase == "keyframe" && p.steps == 60),
        "{progress:?}"
    );
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.mp4");
    let manifest = user.client.download(&job.id, &clip).await.unwrap();
    assert_eq!(probe(&clip).frames, "4");
    assert_eq!(sha256_of(&clip), manifest.clip_sha256.to_string());
    let FirstFrame::Keyframe(spec) = &manifest.spec.first_frame else {
        panic!("{:?}", manifest.spec);
    };
    assert_eq!(spec.prompt.as_str(), "a cat on a roof");
    assert_eq!(
        (spec.model.as_str(), spec.width, spec.height),
        ("painter", 64, 48)
    );
    let picture = keyframe_of(&farm, &user, &manifest).await;
    let png = image_size(&picture);
    assert_eq!(png, (64, 48));

    let id = done.keyframe.clone().unwrap();
    let upload = user.get(&farm, &format!("/v1/uploads/{id}")).await;
    let upload: Value = upload.json().await.unwrap();
    assert_eq!(upload["purpose"], "image");
    assert_eq!(upload["sha256"], hex::encode(Sha256::digest(&picture)));
    // The same picture and seed make the same clip, whichever way it came.
    let again = NewVideo {
        image: Some(id.clone()),
        prompt: None,
        negative_prompt: None,
        keyframe: None,
        ..words()
    };
    let (_, by_picture) = rendered(&user, &again).await;
    assert_eq!(by_picture.clip_sha256, manifest.clip_sha256);
    // Other words make another.
    let other = NewVideo {
        prompt: Some("a dog".to_owned()),
        ..words()
    };
    let (_, by_others) = rendered(&user, &other).await;
    assert_ne!(by_others.clip_sha256, manifest.clip_sha256);
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_begins_with_the_picture_of_its_draft() {
    let (farm, _models) = farm().await;
    let user = farm.user().await;
    let wish = NewVideo {
        draft: true,
        frames: Some(10),
        steps: Some(10),
        ..words()
    };
    let (draft, of_draft) = rendered(&user, &wish).await;
    assert!(draft.draft);
    assert_eq!((of_draft.spec.frames, of_draft.spec.steps), (8, 8));
    let picture = keyframe_of(&farm, &user, &of_draft).await;

    let job = user.client.submit_final(&draft.id).await.unwrap();
    let done = user.follow(&job.id).until_done().await;
    let manifest = user.client.manifest(&job.id).await.unwrap();
    assert_eq!(done.image, draft.keyframe);
    assert_eq!((manifest.spec.frames, manifest.spec.steps), (10, 10));
    assert_eq!(manifest.spec.seed, of_draft.spec.seed);
    let sha256 = of_draft.keyframe.as_ref().unwrap().sha256;
    assert_eq!(manifest.spec.first_frame, FirstFrame::Image(sha256));
    assert_eq!(hex::encode(Sha256::digest(&picture)), sha256.to_string());
    // To the byte what the wish gives without a draft before it.
    let at_once = NewVideo {
        draft: false,
        ..wish
    };
    let (_, at_once) = rendered(&user, &at_once).await;
    assert_eq!(manifest.clip_sha256, at_once.clip_sha256);
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_style_is_fused_into_the_model_of_the_keyframe() {
    let (farm, _models) = farm().await;
    let user = farm.user().await;
    let config = KeyframePreset::Tiny.config();
    let table = ModuleTable::of_stable_diffusion(&config.unet, &config.text_encoder);
    let spec = AdapterSpec {
        format: AdapterFormat::Kohya,
        targets: vec!["to_q".to_owned(), "q_proj".to_owned()],
        ranks: vec![2],
        alphas: vec![2.0],
        use_rslora: false,
        seed: 5,
    };
    let bytes = adapter_bytes(&table, &spec).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("style.safetensors"), bytes).unwrap();
    let run = async |args: &[&str]| Flowai::run(&farm, &user, folder.path(), args).await;
    let plain = [
        "render", "--prompt", "a cat", "--frames", "2", "--steps", "2",
    ];
    let small = ["--width", "64", "--height", "48", "--keyframe-steps", "3"];
    let plain = [&plain[..], &small[..], &["--seed", "3"]].concat();
    let styled = ["--keyframe-adapter", "style.safetensors=0.5"];
    let mut made = Vec::new();
    for (name, more) in [("plain.mp4", &[][..]), ("styled.mp4", &styled[..])] {
        let done = run(&[&plain[..], more, &["--out", name, "--json"]].concat()).await;
        assert_eq!(done.status, Some(0), "{done:?}");
        let objects = done.objects();
        let mut videos = objects
            .iter()
            .filter_map(|object| object["video"]["id"].as_str());
        let manifest = user.client.manifest(videos.next_back().unwrap()).await;
        made.push(manifest.unwrap().keyframe.unwrap());
    }
    assert!(made[0].adapters.is_empty());
    let [fused] = &made[1].adapters[..] else {
        panic!("{made:?}");
    };
    assert_eq!(fused.weight, 0.5);
    assert!(fused.modules > 0);
    assert_ne!(made[0].sha256, made[1].sha256);
    // It is for the other model, and said to be.
    let wrong = run(&[&plain[..], &["--adapter", "style.safetensors"]].concat()).await;
    wrong.assert_refused(2, &["keyframe.adapters"]);
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_takes_words_drafts_and_finals() {
    let (farm, _models) = farm().await;
    let user = farm.user().await;
    let folder = tempfile::tempdir().unwrap();
    let run = async |args: &[&str]| Flowai::run(&farm, &user, folder.path(), args).await;
    run(&["render"]).await.assert_refused(2, &["--prompt"]);
    run(&["render", "cat.png", "--negative-prompt", "rain"])
        .await
        .assert_refused(2, &["--negative-prompt"]);

    let small = [
        "--frames",
        "3",
        "--width",
        "64",
        "--height",
        "48",
        "--steps",
        "3",
        "--keyframe-steps",
        "4",
    ];
    let wish = [
        &[
            "render",
            "--prompt",
            "a cat",
            "--keyframe-model",
            "painter",
            "--draft",
        ],
        &small[..],
    ];
    let draft = run(&[&wish.concat()[..], &["--json"]].concat()).await;
    assert_eq!(draft.status, Some(0), "{draft:?}");
    assert_eq!(probe(&folder.path().join("clip.mp4")).frames, "3");
    let objects = draft.objects();
    let video = objects
        .iter()
        .rev()
        .find_map(|object| object["video"].as_object());
    let id = video.unwrap()["id"].as_str().unwrap();
    let made = run(&["final", id]).await;
    assert_eq!(made.status, Some(0), "{made:?}");
    assert_eq!(made.stdout.trim(), "final.mp4");
    let made = run(&["final", id, "--detach"]).await;
    let job = made.stdout.trim();
    run(&["final", job, "--force"])
        .await
        .assert_refused(1, &["draft"]);
    farm.stop().await;
}

/// Width and height in a PNG's header.
fn image_size(png: &[u8]) -> (u32, u32) {
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}
