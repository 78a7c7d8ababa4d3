//! Adapters brought near before they are needed: to this disk, then read and checked to host memory.
//!
//! Both happen away from the engine's thread. What is fused already is not looked at.

use std::sync::Arc;

use flowai_actors::ids::Sha256;
use flowai_actors::messages::{Prefetch, PrefetchStage, Source};
use flowai_model::Sha256Digest;
use flowai_svd::lora::HostAdapter;
use futures::future::try_join_all;

use super::inputs::Inputs;
use super::{NotRendered, Workshop, not_fetched};
use crate::cache::Held;
use crate::engine::{Control, EngineError, StageInputs, not_checked};
use crate::failure::{FailureCode, JobFailure};
use crate::models::LocalModel;
use crate::pulse::Pulse;

impl Workshop {
    /// Brings the adapters of the job that probably comes next to host memory, as far as there is room. What is wrong with
    /// one is said when its job comes.
    pub async fn prefetch(&self, next: &Prefetch, control: &Control) -> Result<(), NotRendered> {
        let pulse = Pulse::unheard();
        let bring = async {
            for stage in &next.stages {
                self.bring_near(stage, &pulse).await?;
            }
            Ok(())
        };
        tokio::select! {
            biased;
            () = control.stopped() => Err(NotRendered::Stopped),
            brought = bring => brought,
        }
    }

    async fn bring_near(&self, stage: &PrefetchStage, pulse: &Pulse) -> Result<(), NotRendered> {
        let Some(model) = self.models.get(&stage.model) else {
            return Ok(());
        };
        let files = self
            .fetch_adapters("adapters", &stage.adapters, pulse)
            .await?;
        for file in files {
            // One after the other, and none is held: together they may be larger than the memory that is meant for them.
            let checked = self.check_ahead(model, &[&file]).await.map(drop);
            // A file that has rotted can only leave the disk when nobody holds it.
            drop(file);
            checked.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// `field` is how errors name the list.
    pub(super) async fn fetch_adapters(
        &self,
        field: &str,
        sources: &[Source],
        pulse: &Pulse,
    ) -> Result<Vec<Held>, NotRendered> {
        let fetches = sources.iter().enumerate().map(|(i, source)| async move {
            let held = self.adapters.hold_unread(source, pulse).await;
            held.map_err(|error| not_fetched(&format!("{field}[{i}]"), &error))
        });
        try_join_all(fetches).await
    }

    /// [`Self::check_ahead`] for each stage whose adapters are not fused. A device that is lost is for the engine to meet, whose end the
    /// farm hears: of the job nothing is said.
    pub(super) async fn check_all_ahead(
        &self,
        inputs: &Inputs,
    ) -> Result<Vec<HostAdapter>, EngineError> {
        let mut checked = Vec::new();
        for StageInputs { model, adapters } in inputs.stages() {
            if !self.is_fused(model, adapters) {
                let files: Vec<&Held> = adapters.iter().map(|(file, _)| file).collect();
                match self.check_ahead(model, &files).await {
                    Ok(of_stage) => checked.extend(of_stage),
                    Err(EngineError::Lost(reason)) => {
                        tracing::warn!(reason, "adapters were not read ahead");
                        return Ok(Vec::new());
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(checked)
    }

    /// The adapters in host memory, where they stay until what this gives is dropped. Nothing for an engine that reads no
    /// adapters.
    async fn check_ahead(
        &self,
        model: &Arc<LocalModel>,
        files: &[&Held],
    ) -> Result<Vec<HostAdapter>, EngineError> {
        let Some(host) = &self.host_adapters else {
            return Ok(Vec::new());
        };
        let mut held = Vec::new();
        for file in files {
            let (host, model) = (host.clone(), Arc::clone(model));
            let (path, sha256) = (file.path().to_owned(), file.sha256());
            let reading = tokio::task::spawn_blocking(move || {
                let table = model.module_table().map_err(|error| {
                    let detail = format!("model {}: {error}", model.id);
                    EngineError::from(JobFailure::new(FailureCode::ModelUnusable, detail))
                })?;
                let digest = Sha256Digest::from_bytes(*sha256.as_bytes());
                host.hold(model.identity.sha256, digest, &path, || table)
                    .map_err(|error| not_checked(sha256, error))
            });
            let read = reading.await;
            held.push(read.map_err(|error| JobFailure::new(FailureCode::EngineFailed, error))??);
        }
        Ok(held)
    }

    /// Whether the engine computes with exactly these adapters of this model, in whatever order they are named.
    fn is_fused(&self, model: &LocalModel, adapters: &[(Held, f32)]) -> bool {
        let holdings = self.engine.holdings();
        let states = [holdings.fused, holdings.keyframe_fused];
        let Some(fused) = states.into_iter().flatten().find(|s| s.model == model.id) else {
            return false;
        };
        let key = |sha256: Sha256, weight: f32| (sha256, weight.to_bits());
        let mut asked: Vec<_> = adapters.iter().map(|(a, w)| key(a.sha256(), *w)).collect();
        let mut there: Vec<_> = fused
            .adapters
            .iter()
            .map(|a| key(a.sha256, a.weight))
            .collect();
        asked.sort_unstable();
        there.sort_unstable();
        asked == there
    }
}
