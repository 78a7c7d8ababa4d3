//! Goal: a node that renders for days holds what it held in its first hour, whatever sizes and adapters its jobs have.
//! Method: one engine, one job after the other, each of another size, length and set of adapters than the one before; the
//! memory of the process after the last job beside that after the twentieth, when each size was there once.
//!
//! `make soak` renders 200 jobs; without a word a tenth as long a stretch.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;

use flowai_model::Preset;
use flowai_svd::{Dtype, Engine, EngineError, Frames, Picture, Spec};
use serde_json::json;
use support::models::Model;
use support::{adapters, inputs};

/// How many jobs, when not [`JOBS_MIN`].
const JOBS: &str = "FLOWAI_SOAK_JOBS";
const JOBS_MIN: usize = 40;
const SIZES: [(u32, u32); 5] = [(32, 32), (48, 32), (16, 24), (32, 64), (24, 24)];
const FRAMES: [u32; 4] = [2, 4, 3, 4];
/// Each size with each length, and with it each chunk and guidance, once.
const WARM: usize = SIZES.len() * FRAMES.len();
const CHANGE_MAX: f64 = 0.03;

/// Ends of the modules that each adapter changes.
const TARGETS: [&[&str]; 4] = [
    &["to_q", "to_v"],
    &["conv1", "conv_in"],
    &["to_out.0", "proj_in", "time_emb_proj"],
    &["net.0.proj", "net.2"],
];

fn render(engine: &mut Engine, job: usize, picture: &Picture, files: &[PathBuf]) {
    let table = engine.config().clone();
    // None, one, or two of them, in a round of seven: it meets the sizes differently each time.
    let chosen: Vec<_> = [job % 7, job % 3]
        .iter()
        .filter_map(|&i| files.get(i))
        .map(|file| adapters::open(file, &table))
        .collect();
    let mut uses: Vec<_> = chosen.iter().map(|adapter| (adapter, 0.5)).collect();
    uses.dedup_by_key(|(adapter, _)| adapter.sha256);
    engine.set_adapters(&adapters::set(&uses)).unwrap();

    let (height, width) = SIZES[job % SIZES.len()];
    let fields = json!({
        "height": height, "width": width, "frames": FRAMES[job % FRAMES.len()], "steps": 2,
        "decode_chunk_size": 1 + job % FRAMES.len(), "max_guidance_scale": 1 + job % 2, "seed": job,
    });
    let spec = Spec::from_json(fields.as_object().unwrap(), engine.config()).unwrap();
    let mut run = engine
        .start(&engine.prepare(&spec, picture).unwrap())
        .unwrap();
    while !run.is_finished() {
        run.step().unwrap();
    }
    run.decode(|frames: Frames| -> Result<(), EngineError> { frames.to_rgb8().map(drop) })
        .unwrap();
}

/// What of this process lies in memory, bytes.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0
}

#[test]
fn memory_stays_after_many_jobs() {
    let jobs = std::env::var(JOBS).map_or(JOBS_MIN, |jobs| jobs.parse().unwrap());
    assert!(jobs >= JOBS_MIN, "{JOBS} must be at least {JOBS_MIN}");
    let model = Model::write(&Preset::Tiny.config(), 90);
    let file = |(i, targets): (usize, &&[&str])| {
        let spec = adapters::spec(targets, i as u64);
        adapters::write(
            model.scratch(),
            &format!("adapter {i}"),
            model.config(),
            &spec,
        )
    };
    let files: Vec<_> = TARGETS.iter().enumerate().map(file).collect();
    let picture = Picture::open(&inputs::write_picture(model.scratch(), 60, 40)).unwrap();
    let mut engine = model.engine(Dtype::Fp32);

    let mut after = Vec::new();
    for job in 0..jobs {
        render(&mut engine, job, &picture, &files);
        after.push(resident());
    }
    let (warm, last) = (after[WARM - 1], after[jobs - 1]);
    for (i, bytes) in after.iter().enumerate().skip(WARM - 1).step_by(WARM) {
        println!("after {} jobs: {:.1} MB", i + 1, bytes / 1e6);
    }
    let change = last / warm - 1.0;
    println!("from {WARM} to {jobs} jobs: {:+.2} %", 100.0 * change);
    assert!(change.abs() <= CHANGE_MAX, "{:+.2} %", 100.0 * change);
}
