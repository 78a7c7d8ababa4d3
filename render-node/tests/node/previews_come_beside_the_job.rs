//! Goal: while a job is denoised, moving pictures of it come into the store, and nothing of the job hangs on them.

use std::time::Duration;

use flowai_actors::ids::Sha256;
use flowai_actors::link::Faults;
use flowai_actors::messages::{Assign, Outcome, Phase};
use flowai_render_node::engine::{StandInEngine, SvdEngine};
use flowai_render_node::preview::PreviewMaps;

use crate::kit::{Farm, preview_file};
use crate::svd_makes_the_clip::{engine_with, picture};

/// Frames of an animated WebP.
fn frames(webp: &[u8]) -> usize {
    assert_eq!((&webp[..4], &webp[8..12]), (&b"RIFF"[..], &b"WEBP"[..]));
    webp.windows(4).filter(|four| four == b"ANMF").count()
}

async fn clip(farm: &mut Farm) -> Sha256 {
    match farm.hear_end().await.outcome {
        Outcome::Rendered { clip_sha256, .. } => clip_sha256,
        other => panic!("{other:?}"),
    }
}

async fn long_job(farm: &Farm) -> Assign {
    let mut job = farm.job(b"a picture", &[]).await;
    job.spec.steps = 30;
    job
}

#[tokio::test]
async fn a_moving_picture_lies_in_the_store_while_the_job_is_denoised() {
    let engine = || StandInEngine::new(Duration::from_millis(100));
    let mut farm = Farm::start(Faults::none(), StandInEngine::NAME, engine).await;
    let job = long_job(&farm).await;
    farm.assign(&job).await;
    let mut steps = Vec::new();
    for _ in 0..2 {
        let placed = farm.hear_preview().await;
        assert_eq!(placed.at, job.at);
        let webp = farm
            .store
            .artefact(job.at, &preview_file(placed.step))
            .await;
        assert_eq!(frames(&webp), job.spec.frames as usize);
        let progress = farm.hear_progress(|_| true).await;
        assert_eq!(progress.phase, Phase::Denoising);
        steps.push(placed.step);
    }
    // At most one in two seconds, and a step takes a tenth of one.
    assert!(steps[0] == 1 && steps[1] >= 19, "{steps:?}");
    clip(&mut farm).await;
}

#[tokio::test]
async fn a_job_whose_previews_nobody_takes_is_rendered_the_same() {
    let engine = || StandInEngine::new(Duration::from_millis(20));
    let mut clips = Vec::new();
    for are_previews_taken in [true, false] {
        let mut farm = Farm::start(Faults::none(), StandInEngine::NAME, engine).await;
        farm.set_policy(|policy| policy.are_previews_taken = are_previews_taken);
        farm.assign(&long_job(&farm).await).await;
        match are_previews_taken {
            true => drop(farm.hear_preview().await),
            false => farm.hear_preview_refused().await,
        }
        clips.push(clip(&mut farm).await);
    }
    assert_eq!(clips[0], clips[1]);
}

/// The engine that renders, with its map on disk from the first job on.
#[tokio::test]
async fn the_engine_shows_what_it_guesses_and_makes_the_same_clip() {
    let folder = tempfile::tempdir().unwrap();
    let maps = folder.path().join("maps");
    let mut clips = Vec::new();
    for shows in [true, false] {
        let maps = PreviewMaps::open(maps.clone()).unwrap();
        let (_, make) = engine_with(0);
        let engine = move || match shows {
            true => make().with_previews(maps),
            false => make(),
        };
        let mut farm = Farm::start(Faults::none(), SvdEngine::NAME, engine).await;
        let job = farm.job(&picture(), &[]).await;
        farm.assign(&job).await;
        if shows {
            let placed = farm.hear_preview().await;
            let webp = farm
                .store
                .artefact(job.at, &preview_file(placed.step))
                .await;
            assert_eq!(frames(&webp), job.spec.frames as usize);
        }
        clips.push(clip(&mut farm).await);
    }
    assert_eq!(clips[0], clips[1], "a preview changed the clip");
    assert_eq!(std::fs::read_dir(maps).unwrap().count(), 1);
}
