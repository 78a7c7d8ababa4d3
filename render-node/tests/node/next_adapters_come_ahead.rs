//! Goal: adapters are brought, read and checked beside the engine, never by it: those of the next job while the present one
//! runs, and those that do not fit before the engine hears of their job. What a node has, it says.
//! Method: an engine that stands still inside a job, hints of the leader, and beats; the real engine for what is fused.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use flowai_actors::link::Faults;
use flowai_actors::manifest::FusedAdapter;
use flowai_actors::messages::{AssignAnswer, Outcome};
use flowai_actors::spec::{AdapterUse, RenderSpec};
use flowai_model::{Preset, Sha256Digest};
use flowai_render_node::engine::{
    AdapterFile, EngineError, EngineRun, RenderEngine, StageEngine, StandInEngine,
};
use flowai_render_node::models::LocalModel;
use flowai_svd::lora::HostAdapters;
use flowai_svd::{DeviceName, StateId};

use crate::bad_jobs_fail_by_name::{check, outcome};
use crate::kit::{Farm, sha256};
use crate::svd_makes_the_clip::{adapter, farm_with, picture};
use crate::watched::Watched;
use crate::words_become_a_clip::style;

const HOST_BYTES_MAX: u64 = 64 << 20;

#[tokio::test]
async fn the_next_jobs_adapters_come_while_the_engine_is_busy() {
    let (goes_on, waits) = mpsc::channel::<()>();
    let engine = move || Watched {
        engine: StandInEngine::new(Duration::ZERO),
        on_start: move |_: &Path| {
            // When the test has ended nobody sends any more.
            waits.recv().ok();
            Ok(())
        },
    };
    let host = HostAdapters::new(HOST_BYTES_MAX, DeviceName::Cpu);
    let mut farm = Farm::start_with(Faults::none(), "waiting", Some(host.clone()), engine).await;
    let present = farm.job(b"a picture", &[]).await;
    assert_eq!(farm.assign(&present).await, AssignAnswer::Accepted);

    let style = adapter(Preset::Tiny, &["to_v", "conv_in"], 1);
    let next = farm.job(b"a picture", &[(&style, 0.5)]).await;
    farm.foretell(&next);
    let beat = farm
        .hear_beat(|beat| !beat.adapters.host.adapters.is_empty())
        .await;
    assert_eq!(beat.running, Some(present.at));
    assert_eq!(beat.adapters.host.adapters, [sha256(&style)]);
    assert_eq!(beat.held_adapters, [sha256(&style)]);
    let (disk, host) = (beat.adapters.disk, beat.adapters.host.usage);
    assert_eq!((disk.misses, disk.hits), (1, 0));
    assert_eq!((host.misses, host.hits), (1, 0));
    assert_eq!(host.bytes, style.len() as u64);

    // The job finds them: nothing is fetched or read again.
    goes_on.send(()).unwrap();
    goes_on.send(()).unwrap();
    assert!(matches!(
        farm.hear_end().await.outcome,
        Outcome::Rendered { .. }
    ));
    let rendered = outcome(&mut farm, &next).await;
    assert!(matches!(rendered, Outcome::Rendered { .. }), "{rendered:?}");
    let beat = farm
        .hear_beat(|beat| beat.adapters.host.usage.hits > 0)
        .await;
    let (disk, host) = (beat.adapters.disk, beat.adapters.host.usage);
    assert_eq!((disk.misses, disk.hits), (1, 1));
    assert_eq!((host.misses, host.hits), (1, 1));
}

#[tokio::test]
async fn the_adapters_of_both_models_of_the_next_job_come() {
    let engine = || StandInEngine::new(Duration::ZERO);
    let host = HostAdapters::new(HOST_BYTES_MAX, DeviceName::Cpu);
    let farm = Farm::start_with(Faults::none(), "stand-in", Some(host.clone()), engine).await;
    let (painted, motion) = (style(&["to_v"], 1), adapter(Preset::Tiny, &["to_v"], 1));
    let next = farm
        .keyframe_job("a lighthouse", &[(&painted, 1.0)], &[(&motion, 1.0)])
        .await;
    farm.foretell(&next);
    let beat = farm
        .hear_beat(|beat| beat.adapters.host.adapters.len() == 2)
        .await;
    assert_eq!(
        beat.adapters.host.adapters,
        [sha256(&motion), sha256(&painted)]
    );
}

#[tokio::test]
async fn a_new_hint_takes_the_place_of_one_that_does_not_come_forward() {
    let engine = || StandInEngine::new(Duration::ZERO);
    let host = HostAdapters::new(HOST_BYTES_MAX, DeviceName::Cpu);
    let farm = Farm::start_with(Faults::none(), "stand-in", Some(host), engine).await;
    let (first, second) = (
        adapter(Preset::Tiny, &["to_v"], 1),
        adapter(Preset::Tiny, &["to_v"], 2),
    );
    let [first_job, second_job] = [
        farm.job(b"a picture", &[(&first, 1.0)]).await,
        farm.job(b"a picture", &[(&second, 1.0)]).await,
    ];
    farm.store.cut();
    farm.foretell(&first_job);
    farm.hear_beat(|_| true).await;
    farm.foretell(&second_job);
    farm.hear_beat(|_| true).await;
    farm.store.heal();
    let beat = farm.hear_beat(|beat| !beat.held_adapters.is_empty()).await;
    assert_eq!(beat.held_adapters, [sha256(&second)]);
    // Nor does the first come later: whatever waits for the store tries again within three seconds.
    for _ in 0..2 {
        let beat = farm.hear_beat(|_| true).await;
        assert_eq!(beat.held_adapters, [sha256(&second)]);
    }
}

#[tokio::test]
async fn what_the_present_job_waits_for_is_not_fetched_anew_for_a_hint() {
    let engine = || StandInEngine::new(Duration::ZERO);
    let host = HostAdapters::new(HOST_BYTES_MAX, DeviceName::Cpu);
    let mut farm = Farm::start_with(Faults::none(), "stand-in", Some(host), engine).await;
    let (first, second) = (
        adapter(Preset::Tiny, &["to_v"], 1),
        adapter(Preset::Tiny, &["to_v"], 2),
    );
    let [present, next] = [
        farm.job(b"a picture", &[(&first, 1.0)]).await,
        farm.job(b"a picture", &[(&second, 1.0)]).await,
    ];
    farm.store.cut();
    farm.foretell(&present);
    farm.hear_beat(|_| true).await;
    assert_eq!(farm.assign(&present).await, AssignAnswer::Accepted);
    farm.foretell(&next);
    farm.hear_beat(|_| true).await;
    farm.store.heal();
    let ended = farm.hear_end().await;
    assert!(
        matches!(ended.outcome, Outcome::Rendered { .. }),
        "{ended:?}"
    );
    let beat = farm.hear_beat(|beat| beat.held_adapters.len() == 2).await;
    // The job found what was fetched ahead of it.
    assert_eq!(beat.adapters.disk.hits, 1);
}

/// An engine that must not hear of a job.
struct Untouched;

impl StageEngine for Untouched {
    fn load(&mut self, _: &LocalModel) -> Result<(), EngineError> {
        panic!("the engine was asked to load a model")
    }

    fn fuse(&mut self, _: &[AdapterFile<'_>]) -> Result<Vec<FusedAdapter>, EngineError> {
        panic!("the engine was asked to fuse")
    }
}

impl RenderEngine for Untouched {
    fn start<'a>(
        &'a mut self,
        _: &RenderSpec,
        _: &Path,
    ) -> Result<Box<dyn EngineRun + 'a>, EngineError> {
        panic!("the engine was asked to start")
    }
}

#[tokio::test]
async fn an_adapter_of_another_architecture_fails_by_name_before_the_engine_hears_of_it() {
    let host = HostAdapters::new(HOST_BYTES_MAX, DeviceName::Cpu);
    let mut farm = Farm::start_with(Faults::none(), "untouched", Some(host.clone()), || {
        Untouched
    })
    .await;
    let unfit = adapter(Preset::Middle, &["conv_in"], 1);
    let job = farm.job(b"a picture", &[(&unfit, 1.0)]).await;
    // A hint at it is no failure of anything.
    farm.foretell(&job);
    farm.hear_beat(|beat| !beat.held_adapters.is_empty()).await;
    let hash = sha256(&unfit).to_string();
    let words = [hash.as_str(), "conv_in"];
    check(&mut farm, &job, "adapter_incompatible", false, &words).await;
    assert!(host.adapters().is_empty());

    // Also one for the keyframe model.
    let unfit = adapter(
        Preset::Tiny,
        &["temporal_transformer_blocks.0.attn1.to_q"],
        1,
    );
    let job = farm
        .keyframe_job("a lighthouse", &[(&unfit, 1.0)], &[])
        .await;
    let hash = sha256(&unfit).to_string();
    let words = [hash.as_str(), "not the keyframe model"];
    check(&mut farm, &job, "adapter_incompatible", false, &words).await;
}

#[tokio::test]
async fn a_beat_names_what_the_engine_computes_with() {
    let mut farm = farm_with(HOST_BYTES_MAX).await;
    let style = adapter(Preset::Tiny, &["to_v"], 1);
    let used = AdapterUse {
        sha256: sha256(&style),
        weight: 0.5,
    };
    let with = farm.job(&picture(), &[(&style, 0.5)]).await;
    let model = farm.models.get(&with.spec.model).unwrap().identity.sha256;
    let state = |uses: &[flowai_svd::AdapterUse]| StateId::of(model, uses).to_string();

    outcome(&mut farm, &with).await;
    let beat = farm.hear_beat(|beat| beat.running.is_none()).await;
    let fused = beat.adapters.fused.unwrap();
    assert_eq!(
        (fused.model, fused.adapters),
        (with.spec.model.clone(), vec![used])
    );
    let sha256 = Sha256Digest::of(&style);
    let uses = [flowai_svd::AdapterUse {
        sha256,
        weight: 0.5,
    }];
    assert_eq!(fused.state.to_string(), state(&uses));
    assert_eq!(beat.adapters.device, None, "a CPU has no memory of its own");

    let without = farm.job(&picture(), &[]).await;
    outcome(&mut farm, &without).await;
    let beat = farm.hear_beat(|beat| beat.running.is_none()).await;
    let fused = beat.adapters.fused.unwrap();
    assert!(fused.adapters.is_empty());
    assert_eq!(fused.state.to_string(), state(&[]));
    assert_eq!(beat.adapters.host.adapters.len(), 1, "it is still at hand");
}
