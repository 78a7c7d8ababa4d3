//! Goal: words become a keyframe and a clip of it by the real engine: the same pictures as each stage by itself, with the
//! adapters of both, and what cannot be rendered fails by name and never tells the words.
//! Method: tiny random models; the keyframe is made again by flowai-svd alone, and animated again as a picture that was given.

use std::sync::Arc;

use flowai_actors::ids::{JobId, Sha256};
use flowai_actors::manifest::{KeyframeMade, Manifest};
use flowai_actors::messages::{
    ArtefactFile, Assign, AssignAnswer, FirstFrameSource, Outcome, Phase,
};
use flowai_actors::spec::{FirstFrame, KeyframeSampler, KeyframeSpec};
use flowai_model::adapter::{AdapterFormat, ModuleTable};
use flowai_model::synthetic::{self, AdapterSpec};
use flowai_model::{KeyframePreset, Preset};
use flowai_render_node::encoder::RgbFrame;
use flowai_svd::{AdapterSet, Keyframer, LoadOptions, Prompt};
use image::ImageFormat;
use serde_json::json;

use crate::bad_jobs_fail_by_name::{check, outcome};
use crate::kit::{Farm, Heard, sha256};
use crate::svd_makes_the_clip::{OPTIONS, adapter, clip_sha256, farm, picture};

/// In no error and no log line.
const PROMPT: &str = "a canary-coloured lighthouse";

/// For the keyframe model.
pub(crate) fn style(targets: &[&str], seed: u64) -> Vec<u8> {
    let spec = AdapterSpec {
        format: AdapterFormat::Peft,
        targets: targets.iter().map(|&target| target.to_owned()).collect(),
        ranks: vec![2],
        alphas: vec![1.0],
        use_rslora: false,
        seed,
    };
    let config = KeyframePreset::Tiny.config();
    let table = ModuleTable::of_stable_diffusion(&config.unet, &config.text_encoder);
    synthetic::adapter_bytes(&table, &spec).unwrap()
}

pub(crate) fn keyframe_of(job: &mut Assign) -> &mut KeyframeSpec {
    match &mut job.spec.first_frame {
        FirstFrame::Keyframe(keyframe) => keyframe,
        FirstFrame::Image(_) => panic!("the picture is given"),
    }
}

async fn rendered(farm: &mut Farm, job: &mut Assign) -> Box<Manifest> {
    job.at.job = JobId::generate();
    match outcome(farm, job).await {
        Outcome::Rendered { manifest, .. } => manifest,
        other => panic!("{other:?}"),
    }
}

async fn keyframe(farm: &mut Farm, job: &mut Assign) -> KeyframeMade {
    rendered(farm, job).await.keyframe.unwrap()
}

/// The PNG that flowai-svd makes without a node.
fn made_alone(farm: &Farm, job: &mut Assign, adapters: &[(&[u8], f64)]) -> Vec<u8> {
    let asked = keyframe_of(job);
    let options = LoadOptions {
        dtype: OPTIONS.dtype,
        device: OPTIONS.device,
        threads: Some(OPTIONS.threads),
        identity: None,
    };
    let model = farm.models.get(&asked.model).unwrap();
    let mut keyframer = Keyframer::load(&model.dir, options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let read = |(i, (bytes, weight)): (usize, &(&[u8], f64))| {
        let file = folder.path().join(i.to_string());
        std::fs::write(&file, bytes).unwrap();
        (Arc::new(keyframer.read_adapter(&file).unwrap()), *weight)
    };
    let set = AdapterSet::new(adapters.iter().enumerate().map(read).collect()).unwrap();
    keyframer.set_adapters(&set).unwrap();
    let fields = json!({
        "height": asked.height,
        "width": asked.width,
        "steps": asked.steps,
        "guidance_scale": 7.3,
        "sampler": "euler",
        "seed": asked.seed,
    });
    let fields = fields.as_object().unwrap();
    let spec = flowai_svd::KeyframeSpec::from_json(fields, keyframer.config()).unwrap();
    let prompt = Prompt {
        text: asked.prompt.as_str().to_owned(),
        negative: asked.negative_prompt.as_str().to_owned(),
    };
    let conditioning = keyframer.prepare(&spec, &prompt).unwrap();
    let mut run = keyframer.start(&conditioning).unwrap();
    while !run.is_finished() {
        run.step().unwrap();
    }
    let rgb = run.decode().unwrap().to_rgb8().unwrap();
    let picture = RgbFrame::from_raw(spec.width, spec.height, rgb).unwrap();
    let mut png = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png).unwrap();
    png.into_inner()
}

#[tokio::test]
async fn the_keyframe_and_the_clip_are_those_of_each_stage_by_itself() {
    let mut farm = farm().await;
    let painted = style(&["to_v", "q_proj"], 1);
    let sketched = style(&["conv_in"], 2);
    let motion = adapter(Preset::Tiny, &["to_v"], 3);
    let styles: [(&[u8], f32); 2] = [(&painted, 0.7), (&sketched, -0.4)];
    let mut job = farm.keyframe_job(PROMPT, &styles, &[(&motion, 0.5)]).await;
    // Numbers that no f32 has, and the sampler that is not the default.
    keyframe_of(&mut job).guidance_scale = 7.3;
    keyframe_of(&mut job).sampler = KeyframeSampler::Euler;
    let alone = made_alone(&farm, &mut job, &[(&painted, 0.7), (&sketched, -0.4)]);
    let manifest = rendered(&mut farm, &mut job).await;

    let png = farm.store.artefact(job.at, "keyframe.png").await;
    assert_eq!(png, alone);
    let made = manifest.keyframe.clone().unwrap();
    assert_eq!((made.sha256, made.bytes), (sha256(&png), png.len() as u64));
    let FirstFrameSource::Keyframe { model_sha256, .. } = &job.first_frame else {
        panic!("the picture is given")
    };
    assert_eq!(made.model_sha256, *model_sha256);
    assert_eq!(manifest.spec, job.spec);
    assert_eq!(made.tokens_cut, [0, 0]);
    assert!(manifest.timings_ms.keyframe > 0.0);
    let fused: Vec<Sha256> = manifest.adapters.iter().map(|a| a.sha256).collect();
    assert_eq!(fused, [sha256(&motion)]);
    let mut asked = [(sha256(&painted), 0.7), (sha256(&sketched), -0.4)];
    asked.sort_by_key(|(sha256, _)| *sha256);
    let fused: Vec<_> = made.adapters.iter().map(|a| (a.sha256, a.weight)).collect();
    assert_eq!(fused, asked);
    assert!(made.adapters.iter().all(|a| a.modules > 0));

    // Its PNG given as a picture becomes the same clip, here and on a node that never made it.
    let mut animated = farm.job(&png, &[(&motion, 0.5)]).await;
    let again = rendered(&mut farm, &mut animated).await;
    assert_eq!(again.clip_sha256, manifest.clip_sha256);
    assert_eq!(again.keyframe, None);
    let mut fresh = self::farm().await;
    let mut animated = fresh.job(&png, &[(&motion, 0.5)]).await;
    let elsewhere = rendered(&mut fresh, &mut animated).await;
    assert_eq!(elsewhere.clip_sha256, manifest.clip_sha256);
    let mut other = fresh.job(&picture(), &[(&motion, 0.5)]).await;
    let other = rendered(&mut fresh, &mut other).await;
    assert_ne!(other.clip_sha256, manifest.clip_sha256);
}

#[tokio::test]
async fn equal_specs_give_equal_bits_and_every_part_of_one_counts() {
    let mut farm = farm().await;
    let painted = style(&["to_v"], 1);
    let mut job = farm.keyframe_job(PROMPT, &[(&painted, 1.0)], &[]).await;
    let first = rendered(&mut farm, &mut job).await;
    let made = first.keyframe.clone().unwrap();

    let mut plain = farm.keyframe_job(PROMPT, &[], &[]).await;
    assert_ne!(keyframe(&mut farm, &mut plain).await.sha256, made.sha256);
    for change in [
        |keyframe: &mut KeyframeSpec| keyframe.prompt = "another lighthouse".into(),
        |keyframe: &mut KeyframeSpec| keyframe.negative_prompt = "".into(),
        |keyframe: &mut KeyframeSpec| keyframe.seed = 6,
        |keyframe: &mut KeyframeSpec| keyframe.steps = 2,
        |keyframe: &mut KeyframeSpec| keyframe.adapters[0].weight = 0.9,
    ] {
        let mut other = job.clone();
        change(keyframe_of(&mut other));
        assert_ne!(keyframe(&mut farm, &mut other).await.sha256, made.sha256);
    }

    // After all these, and on a node that has made none of them.
    let again = rendered(&mut farm, &mut job).await;
    assert_eq!(again.keyframe, first.keyframe);
    assert_eq!(again.clip_sha256, first.clip_sha256);
    let mut fresh = self::farm().await;
    let mut job = fresh.keyframe_job(PROMPT, &[(&painted, 1.0)], &[]).await;
    let elsewhere = rendered(&mut fresh, &mut job).await;
    assert_eq!(elsewhere.keyframe, first.keyframe);
    assert_eq!(elsewhere.clip_sha256, first.clip_sha256);
}

#[tokio::test]
async fn a_long_prompt_is_cut_and_the_manifest_says_so() {
    let mut farm = farm().await;
    let mut job = farm.keyframe_job(&"storm ".repeat(100), &[], &[]).await;
    let [cut, negative_cut] = keyframe(&mut farm, &mut job).await.tokens_cut;
    assert!(cut > 0);
    assert_eq!(negative_cut, 0);
}

#[tokio::test]
async fn the_leader_hears_of_the_keyframes_own_steps_and_of_five_files() {
    let mut farm = farm().await;
    let mut job = farm.keyframe_job(PROMPT, &[], &[]).await;
    // Enough of them that one is told.
    let FirstFrame::Keyframe(keyframe) = &mut job.spec.first_frame else {
        panic!("{:?}", job.spec);
    };
    keyframe.steps = 60;
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    let mut phases = Vec::new();
    let targets = loop {
        let heard = farm.hear(|heard| match heard {
            Heard::Progress(progress) => Some(Ok(progress.clone())),
            Heard::Targets(targets) => Some(Err(targets.clone())),
            Heard::Ended(ended) => panic!("{ended:?}"),
            Heard::Register(_)
            | Heard::Preview(_)
            | Heard::PreviewRefused
            | Heard::Checkpoint(_) => None,
        });
        match heard.await {
            Ok(progress) => {
                let of_keyframe = progress.phase == Phase::Keyframe;
                let steps = if of_keyframe { 60 } else { job.spec.steps };
                assert_eq!(progress.steps, steps, "{progress:?}");
                phases.push(progress.phase);
            }
            Err(targets) => break targets,
        }
    };
    phases.dedup();
    assert!(phases.contains(&Phase::Keyframe), "{phases:?}");
    let expected = [
        Phase::Fetching,
        Phase::Preparing,
        Phase::Keyframe,
        Phase::Denoising,
        Phase::Decoding,
        Phase::Uploading,
    ];
    // A progress may be left out where a newer one came at once, and none comes out of turn.
    let mut turns = expected.iter();
    assert!(
        phases.iter().all(|phase| turns.any(|turn| turn == phase)),
        "{phases:?}"
    );
    let files: Vec<ArtefactFile> = targets.files.iter().map(|ready| ready.file).collect();
    assert_eq!(files, ArtefactFile::of(&job.spec));
    assert!(files.contains(&ArtefactFile::Keyframe));
}

/// The keyframe model stays beside the other, and neither's adapters are the other's.
#[tokio::test]
async fn both_models_keep_their_own_adapters_between_jobs() {
    let mut farm = farm().await;
    let painted = style(&["to_v"], 1);
    let mut with = farm.keyframe_job(PROMPT, &[(&painted, 1.0)], &[]).await;
    rendered(&mut farm, &mut with).await;
    let mut given = farm.job(&picture(), &[]).await;
    rendered(&mut farm, &mut given).await;
    let beat = farm.hear_beat(|beat| beat.running.is_none()).await;
    let fused = beat.adapters.fused.unwrap();
    assert_eq!(
        (fused.model, fused.adapters.len()),
        (given.spec.model.clone(), 0)
    );
    let kept = farm.engine.holdings().keyframe_fused.unwrap();
    let used: Vec<Sha256> = kept.adapters.iter().map(|a| a.sha256).collect();
    assert_eq!(
        (kept.model.as_str(), used),
        ("words", vec![sha256(&painted)])
    );
}

#[tokio::test]
async fn what_it_cannot_render_fails_by_name_and_without_the_words() {
    let mut farm = farm().await;
    let fails = async |farm: &mut Farm, job: &Assign, code: &str, retryable, words: &[&str]| {
        let detail = check(farm, job, code, retryable, words).await;
        assert!(!detail.contains("canary"), "tells the prompt: {detail}");
    };

    let motion = adapter(Preset::Tiny, &["to_q", "to_v"], 1);
    let unfit = farm.keyframe_job(PROMPT, &[(&motion, 1.0)], &[]).await;
    let hash = sha256(&motion).to_string();
    let words = [
        hash.as_str(),
        "it fits the video model, not the keyframe model",
    ];
    fails(&mut farm, &unfit, "adapter_incompatible", false, &words).await;
    let painted = style(&["to_k"], 1);
    let unfit = farm.keyframe_job(PROMPT, &[], &[(&painted, 1.0)]).await;
    let hash = sha256(&painted).to_string();
    fails(&mut farm, &unfit, "adapter_incompatible", false, &[&hash]).await;

    // Finite in every weight, and too much for the sums of a layer.
    let mut strong = style(&["conv_out"], 1);
    let value = strong.len() - 4..;
    strong[value].copy_from_slice(&1e37_f32.to_le_bytes());
    let broken = farm.keyframe_job(PROMPT, &[(&strong, 1.0)], &[]).await;
    let words = ["keyframe: ", "not finite"];
    fails(&mut farm, &broken, "not_finite", false, &words).await;

    let mut odd = farm.keyframe_job(PROMPT, &[], &[]).await;
    keyframe_of(&mut odd).width = 60;
    keyframe_of(&mut odd).steps = 0;
    let words = ["keyframe.width", "keyframe.steps"];
    fails(&mut farm, &odd, "invalid_spec", false, &words).await;
    keyframe_of(&mut odd).prompt = PROMPT.repeat(200).as_str().into();
    odd.at.job = JobId::generate();
    fails(
        &mut farm,
        &odd,
        "invalid_spec",
        false,
        &["prompt must be at most"],
    )
    .await;

    let mut in_vain = farm.keyframe_job(PROMPT, &[], &[]).await;
    keyframe_of(&mut in_vain).guidance_scale = 1.0;
    let words = ["negative_prompt", "guidance"];
    fails(&mut farm, &in_vain, "invalid_spec", false, &words).await;

    let mut no_such = farm.keyframe_job(PROMPT, &[], &[]).await;
    keyframe_of(&mut no_such).model = "others".parse().unwrap();
    let answer = farm.assign(&no_such).await;
    assert!(
        matches!(&answer, AssignAnswer::Refused { reason } if reason.contains("model")),
        "{answer:?}"
    );

    let mut of_clips = farm.keyframe_job(PROMPT, &[], &[]).await;
    keyframe_of(&mut of_clips).model = of_clips.spec.model.clone();
    if let FirstFrameSource::Keyframe { model_sha256, .. } = &mut of_clips.first_frame {
        *model_sha256 = of_clips.model_sha256;
    }
    let words = ["model tiny", "family svd", "family sd"];
    fails(&mut farm, &of_clips, "invalid_spec", false, &words).await;

    let mut others = farm.keyframe_job(PROMPT, &[(&painted, 1.0)], &[]).await;
    keyframe_of(&mut others).adapters[0].sha256 = sha256(b"another");
    let words = ["sources of keyframe.adapters"];
    fails(&mut farm, &others, "invalid_spec", false, &words).await;
    let mut others = farm.keyframe_job(PROMPT, &[], &[]).await;
    others.first_frame = farm.job(&picture(), &[]).await.first_frame;
    fails(&mut farm, &others, "invalid_spec", false, &["first frame"]).await;

    let mut gone = farm.keyframe_job(PROMPT, &[(&painted, 1.0)], &[]).await;
    keyframe_of(&mut gone).adapters[0].sha256 = Sha256::from_bytes([4; 32]);
    if let FirstFrameSource::Keyframe { adapters, .. } = &mut gone.first_frame {
        adapters[0] = farm.store.source(Sha256::from_bytes([4; 32]), 5).await;
    }
    let words = ["keyframe.adapters[0]", "404"];
    fails(&mut farm, &gone, "input_unavailable", true, &words).await;

    // None of them left a trace.
    let mut good = farm.keyframe_job(PROMPT, &[], &[]).await;
    let first = keyframe(&mut farm, &mut good).await;
    let mut fresh = self::farm().await;
    let mut good = fresh.keyframe_job(PROMPT, &[], &[]).await;
    assert_eq!(keyframe(&mut fresh, &mut good).await, first);
}

#[tokio::test]
async fn a_keyframe_model_that_changed_under_the_node_is_not_used() {
    let mut farm = farm().await;
    let job = farm.keyframe_job(PROMPT, &[], &[]).await;
    let model = farm.models.get(&"words".parse().unwrap()).unwrap();
    // Read where it is there.
    let added = model.dir.join("tokenizer/special_tokens_map.json");
    std::fs::write(added, "{}").unwrap();
    let words = ["keyframe: model words", "changed"];
    check(&mut farm, &job, "model_unusable", true, &words).await;

    let given = farm.job(&picture(), &[]).await;
    clip_sha256(outcome(&mut farm, &given).await);
}
