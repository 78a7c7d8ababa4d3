//! Goal: an assignment ends as four files in the store and an end that names them by hash, with a manifest that says how.
//! Method: the whole node with the stand-in engine; ffprobe reads the stored clip.

use std::process::Command;
use std::time::Duration;

use flowai_actors::ids::Sha256;
use flowai_actors::link::Faults;
use flowai_actors::messages::{ArtefactFile, AssignAnswer, Ended, Outcome, Phase};
use flowai_render_node::engine::StandInEngine;

use crate::bad_jobs_fail_by_name::outcome;
use crate::kit::{Farm, Heard, sha256};
use crate::words_become_a_clip::keyframe_of;

#[tokio::test]
async fn a_job_goes_all_the_way() {
    let step = Duration::from_millis(1);
    let engine = move || StandInEngine::new(step);
    let mut farm = Farm::start(Faults::none(), StandInEngine::NAME, engine).await;
    let register = farm.hear_register().await;
    assert_eq!(register.models[0].id.as_str(), "tiny");
    assert_eq!(register.models[0].limits.side_multiple, 8);
    assert_eq!(
        register.models[0].unet_config["_class_name"],
        "UNetSpatioTemporalConditionModel"
    );
    assert_eq!((register.running, register.refused_models), (None, vec![]));

    let job = farm.job(b"a picture", &[(b"an adapter", 0.5)]).await;
    assert_eq!(farm.assign(&job).await, AssignAnswer::Accepted);
    let first = farm.hear_progress(|_| true).await;
    assert_eq!((first.at, first.steps), (job.at, job.spec.steps));
    assert!(matches!(
        first.phase,
        Phase::Fetching | Phase::Preparing | Phase::Denoising
    ));
    let targets = farm
        .hear(|heard| match heard {
            Heard::Targets(targets) => Some(targets.clone()),
            _ => None,
        })
        .await;
    let Ended { at, outcome, .. } = farm.hear_end().await;
    let Outcome::Rendered {
        clip_sha256,
        clip_bytes,
        manifest,
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!(at, job.at);

    for file in ArtefactFile::of(&job.spec) {
        let stored = farm.store.artefact(job.at, file.file_name()).await;
        let told = targets
            .files
            .iter()
            .find(|ready| ready.file == file)
            .unwrap();
        assert_eq!(
            (told.sha256, told.bytes),
            (sha256(&stored), stored.len() as u64)
        );
    }
    let clip = farm.store.artefact(job.at, "clip.mp4").await;
    assert_eq!(
        (clip_sha256, clip_bytes),
        (sha256(&clip), clip.len() as u64)
    );
    assert_eq!(probe(&clip), "h264,64,32,6/1,3");

    assert_eq!(manifest.spec, job.spec);
    assert_eq!(
        (manifest.clip_sha256, manifest.clip_bytes),
        (clip_sha256, clip_bytes)
    );
    assert_eq!(manifest.model_sha256, job.model_sha256);
    assert_eq!(manifest.engine.name, "stand-in");
    assert_eq!(manifest.device_class, "a class");
    let fused: Vec<(Sha256, f32)> = manifest
        .adapters
        .iter()
        .map(|adapter| (adapter.sha256, adapter.weight))
        .collect();
    assert_eq!(fused, [(sha256(b"an adapter"), 0.5)]);
    let timings = &manifest.timings_ms;
    for stage in [
        timings.fetch,
        timings.denoise,
        timings.decode,
        timings.upload,
    ] {
        assert!(stage > 0.0, "{timings:?}");
    }
}

#[tokio::test]
async fn one_job_follows_another_and_equal_jobs_give_equal_clips() {
    let engine = || StandInEngine::new(Duration::ZERO);
    let mut farm = Farm::start(Faults::none(), StandInEngine::NAME, engine).await;
    let mut clips = Vec::new();
    for seed in [1, 2, 1] {
        let mut job = farm.job(b"a picture", &[]).await;
        job.spec.seed = seed;
        // The leader hears the end before the node has heard its answer.
        while farm.assign(&job).await != AssignAnswer::Accepted {
            tokio::task::yield_now().await;
        }
        match farm.hear_end().await.outcome {
            Outcome::Rendered { clip_sha256, .. } => clips.push(clip_sha256),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(clips[0], clips[2]);
    assert_ne!(clips[0], clips[1]);
}

/// Where no model is, the picture is a function of the words all the same.
#[tokio::test]
async fn words_become_a_picture_of_their_own_without_a_model() {
    let engine = || StandInEngine::new(Duration::ZERO);
    let mut farm = Farm::start(Faults::none(), StandInEngine::NAME, engine).await;
    let mut keyframes = Vec::new();
    for prompt in ["a lighthouse", "a storm", "a lighthouse"] {
        let style = b"a style".as_slice();
        let mut job = farm.keyframe_job(prompt, &[(style, 0.5)], &[]).await;
        let Outcome::Rendered { manifest, .. } = outcome(&mut farm, &job).await else {
            panic!("not rendered")
        };
        let made = manifest.keyframe.unwrap();
        let file = ArtefactFile::Keyframe.file_name();
        let png = farm.store.artefact(job.at, file).await;
        assert_eq!(made.sha256, sha256(&png));
        let size = image::load_from_memory(&png).unwrap().to_rgb8();
        let asked = keyframe_of(&mut job);
        assert_eq!(size.dimensions(), (asked.width, asked.height));
        let fused: Vec<(Sha256, f32)> = made
            .adapters
            .iter()
            .map(|adapter| (adapter.sha256, adapter.weight))
            .collect();
        assert_eq!(fused, [(sha256(style), 0.5)]);
        keyframes.push(made.sha256);
    }
    assert_eq!(keyframes[0], keyframes[2]);
    assert_ne!(keyframes[0], keyframes[1]);
}

/// Codec, width, height, frame rate and frames of a clip, as ffprobe counts them.
pub(crate) fn probe(clip: &[u8]) -> String {
    let file = tempfile::NamedTempFile::with_suffix(".mp4").unwrap();
    std::fs::write(file.path(), clip).unwrap();
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v:0"])
        .args([
            "-show_entries",
            "stream=codec_name,width,height,avg_frame_rate,nb_read_frames",
        ])
        .args(["-of", "csv=p=0"])
        .arg(file.path())
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
