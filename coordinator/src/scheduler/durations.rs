//! What renders and loads take, learned from those that ended.
//!
//! A render is predicted as its baseline, which grows with steps, frames and pixels (`cost.rs`), times the ratio that renders
//! of its kind showed: of the same model, size and device class if enough of them are known, else of wider circles.

use std::collections::HashMap;
use std::collections::VecDeque;

use super::names::{ClassIx, ModelIx};
use super::needs::{Needs, SizeBucket};

/// Renders that a quantile is of: old ones say little of a node's present software and clocks.
const WINDOW: usize = 200;
/// Fewer say less than what a wider circle says.
const SAMPLES_MIN: usize = 5;
/// Before anything was learned a render takes its baseline.
const UNKNOWN: f64 = 1.0;
/// Of reading a checkpoint of some gigabytes from a local disk, until one was measured, seconds.
const MODEL_LOAD_S: f64 = 20.0;
/// Of fetching one adapter of some ten megabytes, seconds.
const ADAPTER_LOAD_S: f64 = 4.0;
/// Of fusing an adapter that is at hand, seconds.
const ADAPTER_FUSE_S: f64 = 0.1;
/// Weight of the newest charge in the mean. The first hundred have equal weights.
const MEAN_WEIGHT: f64 = 0.01;

/// The newest [`WINDOW`] values.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    by_age: VecDeque<f64>,
    sorted: Vec<f64>,
}

impl Window {
    pub(super) fn push(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        if self.by_age.len() == WINDOW
            && let Some(oldest) = self.by_age.pop_front()
        {
            let at = self.sorted.partition_point(|other| *other < oldest);
            self.sorted.remove(at);
        }
        self.by_age.push_back(value);
        let at = self.sorted.partition_point(|other| *other < value);
        self.sorted.insert(at, value);
    }

    /// `None` when too few are known.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        if self.sorted.len() < SAMPLES_MIN {
            return None;
        }
        let at = (q * (self.sorted.len() - 1) as f64).round() as usize;
        self.sorted.get(at).copied()
    }

    /// `None` when too few are known.
    fn mean(&self) -> Option<f64> {
        let count = self.sorted.len();
        (count >= SAMPLES_MIN).then(|| self.sorted.iter().sum::<f64>() / count as f64)
    }

    fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }

    /// The median of however few are known.
    fn guess(&self) -> Option<f64> {
        self.sorted.get(self.sorted.len() / 2).copied()
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Durations {
    by_size: HashMap<(ModelIx, Option<ClassIx>, SizeBucket), Window>,
    by_model: HashMap<(ModelIx, Option<ClassIx>), Window>,
    all: Window,
    model_loads: HashMap<(ModelIx, ClassIx), Window>,
    /// Of all models.
    class_loads: HashMap<ClassIx, Window>,
    adapter_loads: HashMap<ClassIx, Window>,
    charges: u32,
    mean_charge: f64,
}

/// What had to be brought before a render could begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cold {
    pub(super) model: bool,
    pub(super) adapters: u32,
}

impl Durations {
    /// A render of this baseline took so many seconds on a node of the class.
    pub(super) fn learn(&mut self, needs: Needs, class: ClassIx, baseline_s: f64, busy_s: f64) {
        if baseline_s <= 0.0 || busy_s <= 0.0 {
            return;
        }
        let ratio = busy_s / baseline_s;
        for class in [Some(class), None] {
            self.by_size
                .entry((needs.model, class, needs.size))
                .or_default()
                .push(ratio);
            self.by_model
                .entry((needs.model, class))
                .or_default()
                .push(ratio);
        }
        self.all.push(ratio);
    }

    pub(super) fn learn_load(&mut self, model: ModelIx, class: ClassIx, cold: Cold, load_s: f64) {
        if cold.model {
            let adapters_s = f64::from(cold.adapters) * self.adapter_load_s(class);
            let model_s = (load_s - adapters_s).max(0.0);
            let of_model = self.model_loads.entry((model, class)).or_default();
            of_model.push(model_s);
            self.class_loads.entry(class).or_default().push(model_s);
        } else if cold.adapters > 0 {
            let window = self.adapter_loads.entry(class).or_default();
            window.push(load_s / f64::from(cold.adapters));
        }
    }

    /// What renders take, over their baseline: the median. `class`: `None` for a node that is not known yet.
    pub(super) fn ratio(&self, needs: Needs, class: Option<ClassIx>) -> f64 {
        let of_size = self.by_size.get(&(needs.model, class, needs.size));
        let of_model = || self.by_model.get(&(needs.model, class));
        let known = of_size.and_then(Window::median);
        let known = known.or_else(|| of_model().and_then(Window::median));
        let known = known.or_else(|| self.all.median());
        // A few slow renders are a warning. A few fast ones, maybe of other models, cut no job's deadline short.
        known.unwrap_or_else(|| self.all.guess().map_or(UNKNOWN, |guess| guess.max(UNKNOWN)))
    }

    /// The same of this very size and class; `None` when too few are known.
    pub(super) fn learned_ratio(&self, needs: Needs, class: ClassIx) -> Option<f64> {
        self.by_size
            .get(&(needs.model, Some(class), needs.size))?
            .median()
    }

    pub(super) fn model_load_s(&self, model: ModelIx, class: ClassIx) -> f64 {
        self.learned_load_s(model, class).unwrap_or(MODEL_LOAD_S)
    }

    /// Of the model on nodes of the class, or of any model there; `None` when too few loads were seen. The mean: what is saved in
    /// the long run, where loads are short or long and seldom in between.
    pub(super) fn learned_load_s(&self, model: ModelIx, class: ClassIx) -> Option<f64> {
        let of_model = self.model_loads.get(&(model, class));
        let of_class = || self.class_loads.get(&class).and_then(Window::mean);
        of_model.and_then(Window::mean).or_else(of_class)
    }

    pub(super) fn adapter_load_s(&self, class: ClassIx) -> f64 {
        let window = self.adapter_loads.get(&class);
        window
            .and_then(|window| window.quantile(0.5))
            .unwrap_or(ADAPTER_LOAD_S)
    }

    pub(super) const fn adapter_fuse_s(&self) -> f64 {
        ADAPTER_FUSE_S
    }

    /// A start was charged.
    pub(super) fn charged(&mut self, cost: f64) {
        self.charges = self.charges.saturating_add(1);
        let weight = MEAN_WEIGHT.max(1.0 / f64::from(self.charges));
        self.mean_charge += weight * (cost - self.mean_charge);
    }

    /// Whether no render ended that says anything.
    #[cfg(test)]
    pub(super) fn is_new(&self) -> bool {
        self.all.sorted.is_empty()
    }

    /// GPU-seconds of a usual job.
    pub(super) fn mean_charge(&self) -> f64 {
        self.mean_charge
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Shape;
    use super::super::kinds::Kinds;
    use super::*;

    fn needs(model: ModelIx, frames: u32) -> Needs {
        Needs {
            model,
            keyframe: None,
            size: SizeBucket::of(Shape {
                frames,
                width: 512,
                height: 512,
                steps: 25,
            }),
        }
    }

    fn classes() -> [ClassIx; 2] {
        let mut kinds = Kinds::default();
        ["fast", "slow"].map(|name| kinds.class(name))
    }

    fn learn(durations: &mut Durations, needs: Needs, class: ClassIx, ratios: &[f64]) {
        for ratio in ratios {
            durations.learn(needs, class, 60.0, 60.0 * ratio);
        }
    }

    #[test]
    fn a_prediction_follows_what_finished_jobs_took_on_the_class() {
        let [fast, slow] = classes();
        let clip = needs(ModelIx::FIRST, 25);
        let mut durations = Durations::default();
        assert_eq!(durations.ratio(clip, Some(fast)), UNKNOWN);
        learn(&mut durations, clip, fast, &[0.5; SAMPLES_MIN]);
        learn(&mut durations, clip, slow, &[2.0, 2.0, 2.0, 2.0, 4.0]);
        assert_eq!(durations.ratio(clip, Some(fast)), 0.5);
        assert_eq!(durations.ratio(clip, Some(slow)), 2.0);
        let anywhere = durations.ratio(clip, None);
        assert!(0.5 < anywhere && anywhere <= 2.0, "{anywhere}");
    }

    #[test]
    fn too_few_renders_can_only_warn() {
        let [fast, slow] = classes();
        let clip = needs(ModelIx::FIRST, 25);
        let mut durations = Durations::default();
        learn(&mut durations, clip, fast, &[0.5]);
        assert_eq!(durations.ratio(clip, Some(slow)), UNKNOWN);
        learn(&mut durations, clip, slow, &[5.0]);
        assert_eq!(durations.ratio(clip, Some(slow)), 5.0);
    }

    #[test]
    fn an_unknown_size_is_predicted_from_others_of_its_model_until_it_is_known() {
        let [fast, _] = classes();
        let (small, large) = (needs(ModelIx::FIRST, 14), needs(ModelIx::FIRST, 50));
        let mut durations = Durations::default();
        learn(&mut durations, small, fast, &[0.5; SAMPLES_MIN]);
        assert_eq!(durations.ratio(large, Some(fast)), 0.5);
        learn(&mut durations, large, fast, &[0.8; SAMPLES_MIN]);
        assert_eq!(durations.ratio(large, Some(fast)), 0.8);
        assert_eq!(durations.ratio(small, Some(fast)), 0.5);
    }

    #[test]
    fn what_is_long_past_is_forgotten() {
        let [fast, _] = classes();
        let clip = needs(ModelIx::FIRST, 25);
        let mut durations = Durations::default();
        learn(&mut durations, clip, fast, &[4.0; WINDOW]);
        learn(&mut durations, clip, fast, &[0.5; WINDOW]);
        let learned = durations.ratio(clip, Some(fast));
        assert_eq!(learned, 0.5);
    }
}
