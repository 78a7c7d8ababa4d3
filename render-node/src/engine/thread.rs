//! The thread that owns the engine: orders in, events out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowai_actors::ids::Sha256;
use flowai_actors::manifest::{FusedAdapter, StageTimings};
use flowai_actors::messages::Phase;
use flowai_actors::spec::RenderSpec;
use tokio::sync::{mpsc, watch};

use super::{AdapterFile, Control, EngineError, EngineRun, Holdings, RenderEngine};
use crate::cache::Held;
use crate::encoder::{Encoded, Encoder, EncoderSpec};
use crate::failure::{FailureCode, JobFailure};
use crate::models::LocalModel;
use crate::preview::{MovingPicture, PreviewMaker};

/// One order is in work; another may wait while it stops.
const ORDERS_QUEUED_MAX: usize = 4;
/// Events that wait for the job's task. A full queue makes the engine wait.
pub(crate) const EVENTS_QUEUED_MAX: usize = 64;

/// One job, with everything on this machine's disk that it needs.
#[derive(Debug)]
pub struct Order {
    pub model: Arc<LocalModel>,
    pub spec: RenderSpec,
    pub image: Held,
    /// In the order of the spec's adapters, each with its weight.
    pub adapters: Vec<(Held, f32)>,
    /// An empty folder for this job's files.
    pub out_dir: PathBuf,
    pub control: Control,
    pub previews: PreviewOrder,
    /// Dropping the other end stops the job as well.
    pub events: mpsc::Sender<EngineEvent>,
}

/// What is to be shown of a clip before it is one.
#[derive(Debug)]
pub struct PreviewOrder {
    /// A preview after so many steps each; 0 for none.
    pub every_steps: u32,
    pub newest: watch::Sender<Option<MovingPicture>>,
}

/// What the engine says about one order. [`EngineEvent::Ended`] is the last.
#[derive(Debug)]
pub enum EngineEvent {
    Began(Phase),
    /// Steps done, 1..=steps, and how long the last one took.
    Step {
        done: u32,
        elapsed: Duration,
    },
    /// Frames decoded, 1..=frames.
    Frame {
        done: u32,
    },
    Ended(Result<Box<Rendered>, EngineError>),
}

/// A clip that lies complete in the order's folder.
#[derive(Debug, Clone)]
pub struct Rendered {
    pub encoded: Encoded,
    /// In the order of fusing.
    pub adapters: Vec<FusedAdapter>,
    /// All stages but fetching and uploading.
    pub timings_ms: StageTimings,
}

/// The engine cannot be used again; the process must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("engine is lost: {reason}; the process must be started again")]
pub struct EngineLost {
    pub reason: String,
}

/// The way to the engine's thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    orders: mpsc::Sender<Work>,
    lost: watch::Receiver<Option<EngineLost>>,
    holdings: watch::Receiver<Holdings>,
}

#[derive(Debug)]
enum Work {
    WarmUp(Arc<LocalModel>),
    Render(Box<Order>),
}

impl EngineHandle {
    /// Starts the thread, which makes its engine itself. The thread ends when all handles are dropped.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn start<E: RenderEngine + 'static>(
        make: impl FnOnce() -> E + Send + 'static,
    ) -> std::io::Result<Self> {
        let (orders, incoming) = mpsc::channel(ORDERS_QUEUED_MAX);
        let (lost, watch) = watch::channel(None);
        let (holds, holdings) = watch::channel(Holdings::default());
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || run(make, incoming, &lost, &holds))?;
        Ok(Self {
            orders,
            lost: watch,
            holdings,
        })
    }

    /// Loads a model before the first job asks for it. A model that does not load is said by the job that needs it.
    pub fn warm_up(&self, model: Arc<LocalModel>) {
        // A full queue means that work has come already.
        self.orders.try_send(Work::WarmUp(model)).ok();
    }

    /// What the engine has of adapters, as of the last model or set that it took.
    pub fn holdings(&self) -> Holdings {
        self.holdings.borrow().clone()
    }

    /// Hands an order over; it begins when the one before it has ended.
    ///
    /// # Errors
    /// [`EngineLost`].
    pub async fn render(&self, order: Order) -> Result<(), EngineLost> {
        match self.orders.send(Work::Render(Box::new(order))).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.lost().await),
        }
    }

    /// Resolves when the engine is lost. The program waits for it and ends.
    pub async fn lost(&self) -> EngineLost {
        let mut lost = self.lost.clone();
        let ended = match lost.wait_for(Option::is_some).await {
            Ok(lost) => lost.clone(),
            Err(_) => None,
        };
        ended.unwrap_or_else(|| EngineLost {
            reason: "its thread has ended".to_owned(),
        })
    }
}

fn run<E: RenderEngine>(
    make: impl FnOnce() -> E,
    mut incoming: mpsc::Receiver<Work>,
    lost: &watch::Sender<Option<EngineLost>>,
    holds: &watch::Sender<Holdings>,
) {
    let guarded = catch_unwind(AssertUnwindSafe(|| {
        let mut engine = make();
        while let Some(work) = incoming.blocking_recv() {
            match work {
                Work::WarmUp(model) => warm_up(&mut engine, &model)?,
                Work::Render(order) => serve(&mut engine, *order, holds)?,
            }
            holds.send_replace(engine.holdings());
        }
        Ok(())
    }));
    let reason = match guarded {
        Ok(Ok(())) => return,
        Ok(Err(reason)) => reason,
        Err(panic) => panic_text(panic.as_ref()),
    };
    tracing::error!(reason, "engine is lost");
    lost.send_replace(Some(EngineLost { reason }));
}

fn warm_up(engine: &mut impl RenderEngine, model: &LocalModel) -> Result<(), String> {
    match engine.load(model) {
        Ok(()) => Ok(()),
        Err(EngineError::Lost(reason)) => Err(reason),
        Err(error) => {
            tracing::warn!(model = %model.id, %error, "model was not loaded ahead of the first job");
            Ok(())
        }
    }
}

/// Errors: the engine is lost, and with it the job: nothing more is said of it, the process's end says it.
fn serve(
    engine: &mut impl RenderEngine,
    order: Order,
    holds: &watch::Sender<Holdings>,
) -> Result<(), String> {
    let result = match render(engine, &order, holds) {
        Err(EngineError::Lost(reason)) => return Err(reason),
        result => result.map(Box::new),
    };
    if matches!(&result, Err(EngineError::Failed(failure)) if failure.code == FailureCode::OutOfMemory)
    {
        engine.release_memory();
    }
    let Order {
        image,
        adapters,
        events,
        ..
    } = order;
    // Whoever hears the end may have to discard one of them.
    drop((image, adapters));
    // A job that nobody follows any more was dropped; its folder goes with its order.
    events.blocking_send(EngineEvent::Ended(result)).ok();
    Ok(())
}

fn render(
    engine: &mut impl RenderEngine,
    order: &Order,
    holds: &watch::Sender<Holdings>,
) -> Result<Rendered, EngineError> {
    let spec = &order.spec;
    let mut timings_ms = StageTimings::default();

    order.begin(Phase::Preparing)?;
    let clock = Instant::now();
    engine.load(&order.model)?;
    let loading_ms = ms(clock.elapsed());

    order.control.boundary()?;
    let clock = Instant::now();
    let files = order.adapters.iter().map(|(held, weight)| AdapterFile {
        path: held.path(),
        sha256: held.sha256(),
        weight: *weight,
    });
    let fused = engine.fuse(&files.collect::<Vec<_>>());
    holds.send_replace(engine.holdings());
    let adapters = fused?;
    require_all_fused(spec, &adapters)?;
    timings_ms.fuse = ms(clock.elapsed());

    order.control.boundary()?;
    let clock = Instant::now();
    let mut run = engine.start(spec, order.image.path())?;
    timings_ms.prepare = loading_ms + ms(clock.elapsed());

    let PreviewOrder {
        every_steps,
        newest,
    } = &order.previews;
    let mut previews = PreviewMaker::start(*every_steps, spec.fps, newest.clone());

    order.begin(Phase::Denoising)?;
    let clock = Instant::now();
    for done in 1..=spec.steps {
        order.control.boundary()?;
        let started = Instant::now();
        run.step()?;
        order.say(EngineEvent::Step {
            done,
            elapsed: started.elapsed(),
        })?;
        // After the last step the decoder shows more.
        if done < spec.steps && previews.wants(done) {
            preview(run.as_ref(), done, &mut previews);
        }
    }
    timings_ms.denoise = ms(clock.elapsed());

    order.begin(Phase::Decoding)?;
    let clock = Instant::now();
    let encoder = Encoder::start(encoder_spec(spec), &order.out_dir).map_err(encoding)?;
    let mut done = 0;
    run.decode(&mut |frame| {
        order.control.boundary()?;
        encoder.push(frame).map_err(encoding)?;
        done += 1;
        order.say(EngineEvent::Frame { done })
    })?;
    timings_ms.decode = ms(clock.elapsed());

    let clock = Instant::now();
    let encoded = encoder.finish().map_err(encoding)?;
    timings_ms.encode_tail = ms(clock.elapsed());
    Ok(Rendered {
        encoded,
        adapters,
        timings_ms,
    })
}

/// A preview that fails fails no job.
fn preview(run: &dyn EngineRun, step: u32, previews: &mut PreviewMaker) {
    match run.preview() {
        Ok(Some(frames)) => previews.take(step, frames),
        Ok(None) => previews.give_up(),
        Err(error) => {
            tracing::warn!(%error, "job goes on without previews");
            previews.give_up();
        }
    }
}

/// Invariant 10, checked where it would be broken: what the engine says it fused is what the job asks for.
fn require_all_fused(spec: &RenderSpec, fused: &[FusedAdapter]) -> Result<(), EngineError> {
    let key = |sha256: Sha256, weight: f32| (sha256, weight.to_bits());
    let mut asked: Vec<_> = spec
        .adapters
        .iter()
        .map(|a| key(a.sha256, a.weight))
        .collect();
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

impl Order {
    fn begin(&self, phase: Phase) -> Result<(), EngineError> {
        self.control.boundary()?;
        self.say(EngineEvent::Began(phase))
    }

    fn say(&self, event: EngineEvent) -> Result<(), EngineError> {
        let said = self.events.blocking_send(event);
        said.map_err(|_| EngineError::Stopped)
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

fn encoding(error: crate::encoder::EncodeError) -> EngineError {
    JobFailure::new(FailureCode::EncodingFailed, error).into()
}

fn ms(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e3
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!(
        "panicked: {}",
        text.unwrap_or("with a value that is not text")
    )
}
