//! One order on its way through the engine: models and adapters, the keyframe, the clip.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use flowai_actors::ids::Sha256;
use flowai_actors::manifest::{FusedAdapter, StageTimings};
use flowai_actors::messages::{Phase, Stage};
use flowai_actors::spec::{AdapterUse, KeyframeSpec, RenderSpec};
use tokio::sync::watch;

use super::keep::Keeper;
use super::order::{FirstFrameInputs, Keyframe, PreviewOrder, StageInputs};
use super::{
    EngineError, EngineEvent, EngineRun, Holdings, Order, RenderEngine, Rendered, StageEngine,
};
use crate::encoder::{self, EncodeError, Encoded, Encoder, EncoderSpec};
use crate::failure::{FailureCode, JobFailure};
use crate::preview::PreviewMaker;

/// Both models and all adapters are in place before the first step, so that what does not fit is known before time is spent.
///
/// `holds` hears what the engine has of adapters whenever that may have changed. `made` is the keyframe of an earlier try of this order, and
/// then that of this one.
pub(super) fn render(
    engine: &mut impl RenderEngine,
    order: &Order,
    holds: &watch::Sender<Holdings>,
    made: &mut Option<MadeKeyframe>,
) -> Result<Rendered, EngineError> {
    let spec = &order.spec;
    let mut timings_ms = StageTimings::default();

    order.begin(Phase::Preparing)?;
    let prepared = prepare(engine, order, &order.clip, &spec.adapters);
    holds.send_replace(engine.holdings());
    let Prepared {
        fused,
        loading_ms,
        fusing_ms,
    } = prepared?;
    timings_ms.fuse = fusing_ms;

    let image = match &order.first_frame {
        FirstFrameInputs::Image(held) => held.path(),
        FirstFrameInputs::Keyframe { spec, stage } => {
            let made = match made {
                Some(made) => made,
                None => {
                    let clock = Instant::now();
                    let keyframe = make_keyframe(engine, order, spec, stage, holds);
                    made.insert(MadeKeyframe {
                        keyframe: keyframe.map_err(of_keyframe)?,
                        took: clock.elapsed(),
                    })
                }
            };
            timings_ms.keyframe = ms(made.took);
            &made.keyframe.file.path
        }
    };

    order.control.boundary()?;
    let clock = Instant::now();
    let (mut run, begun) = 'begun: {
        if let Some(checkpoint) = &order.resume {
            match engine.resume(spec, checkpoint.path()) {
                Ok((run, done)) => {
                    order.say(EngineEvent::Resumed { done })?;
                    break 'begun (run, done);
                }
                Err(error @ EngineError::Lost(_)) => return Err(error),
                Err(error) => order.say(EngineEvent::Anew(error.to_string()))?,
            }
        }
        (engine.start(spec, image)?, 0)
    };
    timings_ms.prepare = loading_ms + ms(clock.elapsed());

    order.begin(Phase::Denoising)?;
    let mut keeper = Keeper::new(order.checkpoint_every, begun);
    let mut done = begun;
    let encoded = match denoise(order, run.as_mut(), &mut done, &mut keeper, &mut timings_ms) {
        Ok(()) => decode(order, run.as_mut(), &mut timings_ms),
        Err(error) => Err(error),
    };
    if matches!(encoded, Err(EngineError::Stopped)) && order.control.keeps() {
        keeper.keep(order, run.as_ref(), done)?;
    }
    Ok(Rendered {
        encoded: encoded?,
        adapters: fused,
        keyframe: made.as_ref().map(|made| made.keyframe.clone()),
        timings_ms,
    })
}

/// A keyframe that lies in the order's folder: what made it is not needed any more.
pub(super) struct MadeKeyframe {
    keyframe: Keyframe,
    took: Duration,
}

/// All steps that are not done yet.
fn denoise(
    order: &Order,
    run: &mut dyn EngineRun,
    done: &mut u32,
    keeper: &mut Keeper,
    timings_ms: &mut StageTimings,
) -> Result<(), EngineError> {
    let spec = &order.spec;
    let clock = Instant::now();
    let PreviewOrder {
        every_steps,
        newest,
    } = &order.previews;
    let mut previews = PreviewMaker::start(*every_steps, spec.fps, newest.clone());
    let mut painting = Duration::ZERO;
    let remaining = *done + 1..=spec.steps;
    take_steps(
        order,
        remaining,
        run,
        |run| run.step(),
        |run, step| {
            *done = step;
            // After the last step the decoder shows more.
            if step < spec.steps && previews.wants(step) {
                let started = Instant::now();
                preview(run, step, &mut previews)?;
                painting += started.elapsed();
            }
            match keeper.is_due() {
                true => keeper.keep(order, run, step),
                false => Ok(()),
            }
        },
    )?;
    timings_ms.denoise = ms(clock.elapsed());
    timings_ms.previews = ms(painting + previews.encoding());
    Ok(())
}

/// A model that computes with exactly the adapters of the job.
struct Prepared {
    fused: Vec<FusedAdapter>,
    loading_ms: f64,
    fusing_ms: f64,
}

fn prepare(
    engine: &mut (impl StageEngine + ?Sized),
    order: &Order,
    inputs: &StageInputs,
    asked: &[AdapterUse],
) -> Result<Prepared, EngineError> {
    let clock = Instant::now();
    engine.load(&inputs.model)?;
    let loading_ms = ms(clock.elapsed());

    order.control.boundary()?;
    let clock = Instant::now();
    let fused = engine.fuse(&inputs.files())?;
    require_all_fused(asked, &fused)?;
    Ok(Prepared {
        fused,
        loading_ms,
        fusing_ms: ms(clock.elapsed()),
    })
}

/// Words become a PNG in the order's folder.
fn make_keyframe(
    engine: &mut impl RenderEngine,
    order: &Order,
    spec: &KeyframeSpec,
    inputs: &StageInputs,
    holds: &watch::Sender<Holdings>,
) -> Result<Keyframe, EngineError> {
    let prepared = {
        let keyframes = engine.keyframes().ok_or_else(no_keyframes)?;
        prepare(keyframes, order, inputs, &spec.adapters)
    };
    holds.send_replace(engine.holdings());
    let adapters = prepared?.fused;

    order.begin(Phase::Keyframe)?;
    let keyframes = engine.keyframes().ok_or_else(no_keyframes)?;
    let mut run = keyframes.start(spec)?;
    let steps = 1..=spec.steps;
    take_steps(order, steps, run.as_mut(), |run| run.step(), |_, _| Ok(()))?;
    order.control.boundary()?;
    let picture = run.decode()?;
    Ok(Keyframe {
        file: encoder::keyframe(&picture, &order.out_dir).map_err(encoding)?,
        adapters,
        tokens_cut: run.tokens_cut(),
    })
}

/// A preview that fails fails no job, unless the engine is lost.
fn preview(run: &dyn EngineRun, step: u32, previews: &mut PreviewMaker) -> Result<(), EngineError> {
    match run.preview() {
        Ok(Some(frames)) => previews.take(step, frames),
        Ok(None) => previews.give_up(),
        Err(error @ EngineError::Lost(_)) => return Err(error),
        Err(error) => {
            tracing::warn!(%error, "job goes on without previews");
            previews.give_up();
        }
    }
    Ok(())
}

/// Can be stopped and paused before each step. `after` may look at the run when a step is done and was told.
fn take_steps<R: ?Sized>(
    order: &Order,
    steps: RangeInclusive<u32>,
    run: &mut R,
    step: impl Fn(&mut R) -> Result<(), EngineError>,
    mut after: impl FnMut(&R, u32) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    for done in steps {
        order.control.boundary()?;
        let started = Instant::now();
        step(run)?;
        order.say(EngineEvent::Step {
            done,
            elapsed: started.elapsed(),
        })?;
        after(run, done)?;
    }
    Ok(())
}

/// Frames are encoded while later ones are decoded.
fn decode(
    order: &Order,
    run: &mut dyn EngineRun,
    timings_ms: &mut StageTimings,
) -> Result<Encoded, EngineError> {
    order.begin(Phase::Decoding)?;
    let clock = Instant::now();
    let encoder = Encoder::start(encoder_spec(&order.spec), &order.out_dir).map_err(encoding)?;
    let (mut done, mut has_stopped) = (0, false);
    let decoded = run.decode(&mut |frame| {
        order.control.boundary()?;
        encoder.push(frame).map_err(|error| {
            has_stopped = matches!(error, EncodeError::Stopped);
            encoding(error)
        })?;
        done += 1;
        order.say(EngineEvent::Frame { done })
    });
    if let Err(error) = decoded {
        // Only its end says why an encoder takes no more.
        let cause = has_stopped.then(|| encoder.finish().err()).flatten();
        return Err(cause.map_or(error, encoding));
    }
    timings_ms.decode = ms(clock.elapsed());

    let clock = Instant::now();
    let encoded = encoder.finish().map_err(encoding)?;
    timings_ms.encode_tail = ms(clock.elapsed());
    Ok(encoded)
}

/// Invariant 10, checked where it would be broken: what the engine says it fused is what the job asks for.
fn require_all_fused(asked: &[AdapterUse], fused: &[FusedAdapter]) -> Result<(), EngineError> {
    let key = |sha256: Sha256, weight: f32| (sha256, weight.to_bits());
    let mut asked: Vec<_> = asked.iter().map(|a| key(a.sha256, a.weight)).collect();
    let mut given: Vec<_> = fused.iter().map(|a| key(a.sha256, a.weight)).collect();
    asked.sort_unstable();
    given.sort_unstable();
    if asked == given {
        return Ok(());
    }
    Err(JobFailure::new(
        FailureCode::EngineFailed,
        "engine fused other adapters than the job asks for",
    )
    .into())
}

fn no_keyframes() -> EngineError {
    JobFailure::new(
        FailureCode::EngineFailed,
        "engine makes no pictures from words",
    )
    .into()
}

/// A job has two models: says of which stage the failure is.
fn of_keyframe(error: EngineError) -> EngineError {
    match error {
        EngineError::Failed(JobFailure { code, detail, .. }) => EngineError::Failed(JobFailure {
            stage: Stage::Keyframe,
            ..JobFailure::new(code, format!("keyframe: {detail}"))
        }),
        other => other,
    }
}

fn encoder_spec(spec: &RenderSpec) -> EncoderSpec {
    EncoderSpec {
        width: spec.width,
        height: spec.height,
        fps: spec.fps,
        frames: spec.frames,
    }
}

fn encoding(error: EncodeError) -> EngineError {
    let code = match error.is_of_disk() {
        true => FailureCode::DiskFailed,
        false => FailureCode::EncodingFailed,
    };
    JobFailure::new(code, error).into()
}

fn ms(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e3
}
