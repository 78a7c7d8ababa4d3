//! The thread that owns the engine: orders in, events out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::render::render;
use super::{EngineError, EngineEvent, Holdings, Order, RenderEngine};
use crate::failure::FailureCode;
use crate::models::LocalModel;

/// One order is in work; another may wait while it stops.
const ORDERS_QUEUED_MAX: usize = 4;

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

    /// Loads a video model before the first job asks for it. A model that does not load is said by the job that needs it.
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
    let mut made = None;
    let mut result = render(engine, &order, holds, &mut made);
    if is_out_of_memory(&result) {
        let has_room = engine.release_memory();
        // With its keyframe still to be made it would load again what was in its way.
        if has_room && (made.is_some() || order.spec.keyframe().is_none()) {
            tracing::warn!("an idle model was in the clip's way; it is begun once more without");
            result = render(engine, &order, holds, &mut made);
            if is_out_of_memory(&result) {
                engine.release_memory();
            }
        }
    }
    let result = match result {
        Err(EngineError::Lost(reason)) => return Err(reason),
        result => result.map(Box::new),
    };
    let Order {
        clip,
        first_frame,
        events,
        ..
    } = order;
    // Whoever hears the end may have to discard one of their files.
    drop((clip, first_frame));
    // A job that nobody follows any more was dropped; its folder goes with its order.
    events.blocking_send(EngineEvent::Ended(result)).ok();
    Ok(())
}

fn is_out_of_memory<T>(result: &Result<T, EngineError>) -> bool {
    matches!(result, Err(EngineError::Failed(failure)) if failure.code == FailureCode::OutOfMemory)
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
