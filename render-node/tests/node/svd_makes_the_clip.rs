//! Goal: the real engine's frames become the clip that the manifest names, and what it cannot render fails by name.
//! Method: a tiny random model, a picture made here, adapters made for and not for the model.

use flowai_actors::ids::JobId;
use flowai_actors::link::Faults;
use flowai_actors::messages::Outcome;
use flowai_model::adapter::{AdapterFormat, ModuleTable};
use flowai_model::synthetic::{self, AdapterSpec};
use flowai_model::{ModelFolder, Preset};
use flowai_render_node::encoder::RgbFrame;
use flowai_render_node::engine::{AdapterMemory, SvdEngine, SvdOptions};
use flowai_svd::lora::HostAdapters;
use flowai_svd::{DeviceName, Dtype};
use image::ImageFormat;

use crate::assigned_job_becomes_a_clip::probe;
use crate::bad_jobs_fail_by_name::{check, outcome};
use crate::kit::{Farm, sha256};

pub(crate) const OPTIONS: SvdOptions = SvdOptions {
    device: DeviceName::Cpu,
    dtype: Dtype::Fp32,
    threads: 1,
};

/// With this much memory for adapters.
pub(crate) async fn farm_with(host_bytes_max: u64) -> Farm {
    let (host, engine) = engine_with(host_bytes_max);
    Farm::start_with(Faults::none(), SvdEngine::NAME, Some(host), engine).await
}

/// An engine yet to be made, and the memory of adapters that it shares with its node.
pub(crate) fn engine_with(host_bytes_max: u64) -> (HostAdapters, impl FnOnce() -> SvdEngine) {
    let host = HostAdapters::new(host_bytes_max, OPTIONS.device);
    let memory = AdapterMemory {
        host: host.clone(),
        device_bytes_max: 0,
    };
    (host, || SvdEngine::new(OPTIONS, memory))
}

pub(crate) async fn farm() -> Farm {
    farm_with(64 << 20).await
}

/// A PNG with something to look at.
pub(crate) fn picture() -> Vec<u8> {
    let picture = RgbFrame::from_fn(80, 48, |x, y| {
        image::Rgb([3 * x as u8, 5 * y as u8, (x * y) as u8])
    });
    let mut png = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png).unwrap();
    png.into_inner()
}

pub(crate) fn adapter(preset: Preset, targets: &[&str], seed: u64) -> Vec<u8> {
    let spec = AdapterSpec {
        format: AdapterFormat::Kohya,
        targets: targets.iter().map(|&target| target.to_owned()).collect(),
        ranks: vec![2],
        alphas: vec![1.0],
        use_rslora: false,
        seed,
    };
    synthetic::adapter_bytes(&ModuleTable::of(&preset.config().unet), &spec).unwrap()
}

pub(crate) fn clip_sha256(outcome: Outcome) -> flowai_actors::ids::Sha256 {
    match outcome {
        Outcome::Rendered { clip_sha256, .. } => clip_sha256,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_picture_becomes_a_clip_with_its_adapters() {
    let mut farm = farm().await;
    let attention = adapter(Preset::Tiny, &["to_v", "to_q"], 1);
    let convolution = adapter(Preset::Tiny, &["conv_in"], 2);
    let mut job = farm
        .job(&picture(), &[(&attention, 0.8), (&convolution, -0.5)])
        .await;
    let Outcome::Rendered {
        clip_sha256,
        manifest,
        ..
    } = outcome(&mut farm, &job).await
    else {
        panic!("not rendered")
    };
    let clip = farm.store.artefact(job.at, "clip.mp4").await;
    assert_eq!(clip_sha256, sha256(&clip));
    assert_eq!(manifest.clip_sha256, clip_sha256);
    assert_eq!(probe(&clip), "h264,64,32,6/1,3");

    // Every adapter of the job, in the order of fusing; keys of cross-attention have no effect in this architecture.
    let mut asked = [(sha256(&attention), 0.8), (sha256(&convolution), -0.5)];
    asked.sort_by_key(|(sha256, _)| *sha256);
    let fused: Vec<_> = manifest
        .adapters
        .iter()
        .map(|a| (a.sha256, a.weight))
        .collect();
    assert_eq!(fused, asked);
    let of_attention = manifest
        .adapters
        .iter()
        .find(|a| a.sha256 == sha256(&attention))
        .unwrap();
    assert!(of_attention.modules > 0 && of_attention.noop_modules > 0);

    let model = farm.models.get(&job.spec.model).unwrap();
    let identity = ModelFolder::check(&model.dir).unwrap().identify().unwrap();
    assert_eq!(
        manifest.model_sha256.to_string(),
        identity.sha256.to_string()
    );
    let timings = &manifest.timings_ms;
    for stage in [
        timings.fuse,
        timings.prepare,
        timings.denoise,
        timings.decode,
    ] {
        assert!(stage > 0.0, "{timings:?}");
    }

    // The same job again is the same clip, also with its adapters named in another order.
    job.at.job = JobId::generate();
    job.spec.adapters.reverse();
    job.adapters.reverse();
    let again = outcome(&mut farm, &job).await;
    assert_eq!(self::clip_sha256(again), clip_sha256);

    // Without one of them it is another, and with both it is the first again: nothing stays behind.
    let one = farm.job(&picture(), &[(&attention, 0.8)]).await;
    let without = self::clip_sha256(outcome(&mut farm, &one).await);
    assert_ne!(without, clip_sha256);
    job.at.job = JobId::generate();
    assert_eq!(
        self::clip_sha256(outcome(&mut farm, &job).await),
        clip_sha256
    );
}

#[tokio::test]
async fn what_it_cannot_render_fails_by_name() {
    let mut farm = farm().await;
    let no_picture = farm.job(b"GIF89a and so on", &[]).await;
    check(&mut farm, &no_picture, "invalid_image", false, &["image"]).await;

    let cut = &picture()[..200];
    let damaged = farm.job(cut, &[]).await;
    check(
        &mut farm,
        &damaged,
        "invalid_image",
        false,
        &["cannot be read as png"],
    )
    .await;

    let of_another_model = adapter(Preset::Middle, &["conv_in"], 1);
    let unfit = farm.job(&picture(), &[(&of_another_model, 1.0)]).await;
    let hash = sha256(&of_another_model).to_string();
    let words = [hash.as_str(), "conv_in"];
    check(&mut farm, &unfit, "adapter_incompatible", false, &words).await;

    let pickle = farm.job(&picture(), &[(b"\x80\x02}q\x00.", 1.0)]).await;
    check(
        &mut farm,
        &pickle,
        "adapter_incompatible",
        false,
        &["adapter"],
    )
    .await;

    // The adapter that did not fit left no trace.
    let good = farm.job(&picture(), &[]).await;
    let first = clip_sha256(outcome(&mut farm, &good).await);
    let mut fresh = self::farm().await;
    let alone = fresh.job(&picture(), &[]).await;
    assert_eq!(clip_sha256(outcome(&mut fresh, &alone).await), first);
}

/// The job is not to blame for it, and another try succeeds.
#[tokio::test]
async fn an_adapter_that_rotted_on_the_disk_is_this_nodes_failure_and_is_fetched_anew() {
    type Rot = fn(&mut Vec<u8>);
    let rots: [Rot; 2] = [
        // Still an adapter of this model, and its header is no longer one.
        |bytes| *bytes.last_mut().unwrap() ^= 1,
        |bytes| bytes[..8].fill(0xff),
    ];
    // Nothing stays in memory, so that each job reads its files.
    let mut farm = farm_with(0).await;
    let attention = adapter(Preset::Tiny, &["to_v"], 1);
    let convolution = adapter(Preset::Tiny, &["conv_in"], 2);
    let file = farm.adapter_file(sha256(&attention));
    let mut with = farm.job(&picture(), &[(&attention, 0.8)]).await;
    let clip = clip_sha256(outcome(&mut farm, &with).await);
    for rot in rots {
        let mut bytes = attention.clone();
        rot(&mut bytes);
        std::fs::write(&file, &bytes).unwrap();

        // What is fused is not read.
        with.at.job = JobId::generate();
        assert_eq!(clip_sha256(outcome(&mut farm, &with).await), clip);

        let other = farm.job(&picture(), &[(&convolution, 1.0)]).await;
        clip_sha256(outcome(&mut farm, &other).await);
        with.at.job = JobId::generate();
        let hash = sha256(&attention).to_string();
        check(&mut farm, &with, "disk_failed", true, &[&hash, "bytes are"]).await;
        with.at.job = JobId::generate();
        assert_eq!(clip_sha256(outcome(&mut farm, &with).await), clip);
        assert_eq!(std::fs::read(&file).unwrap(), attention);
    }
}

#[tokio::test]
async fn a_model_that_changed_under_the_node_is_not_used() {
    let mut farm = farm().await;
    let job = farm.job(&picture(), &[]).await;
    let model = farm.models.get(&job.spec.model).unwrap();
    let config = model.dir.join("scheduler/scheduler_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n")).unwrap();
    check(
        &mut farm,
        &job,
        "model_unusable",
        true,
        &["tiny", "changed"],
    )
    .await;
}
