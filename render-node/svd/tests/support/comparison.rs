//! Many modules of one model against the oracle in one go: starting Python costs more than computing.

use std::path::PathBuf;

use serde_json::{Value, json};
use tch::Tensor;

use super::compare::{assert_close, difference};
use super::keyframe::KeyframeModel;
use super::models::Model;
use super::oracle;

pub(crate) struct Comparison<'m> {
    program: &'m str,
    model: PathBuf,
    calls: Vec<Value>,
    inputs: Vec<(String, Tensor)>,
    found: Vec<(String, Tensor)>,
}

impl<'m> Comparison<'m> {
    pub(crate) fn of(model: &'m Model) -> Self {
        Self::by("modules.py", model.path())
    }

    pub(crate) fn of_keyframe(model: &'m KeyframeModel) -> Self {
        Self::by("keyframe_modules.py", model.path())
    }

    fn by(program: &'m str, model: PathBuf) -> Self {
        Self {
            program,
            model,
            calls: Vec::new(),
            inputs: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Notes that `found` should be what `kind` of the oracle's program makes of `inputs`; `settings` is what else it reads.
    pub(crate) fn add(
        &mut self,
        name: &str,
        kind: &str,
        settings: Value,
        inputs: &[&Tensor],
        found: Tensor,
    ) {
        let names: Vec<String> = (0..inputs.len()).map(|i| format!("{name}.{i}")).collect();
        let mut call = settings;
        call["name"] = json!(name);
        call["kind"] = json!(kind);
        call["inputs"] = json!(names);
        self.calls.push(call);
        let inputs = inputs.iter().map(|input| input.contiguous());
        self.inputs.extend(names.into_iter().zip(inputs));
        self.found.push((name.to_owned(), found));
    }

    /// Asks the oracle and compares every element with `tolerance`.
    pub(crate) fn check(self, tolerance: f64) {
        let expected = self.expected("fp32");
        for (name, found) in &self.found {
            assert_close(name, found, &expected[name], tolerance);
        }
    }

    /// For inputs that make rounding itself larger than `tolerance`: every element is as near to the oracle in fp64 as the
    /// oracle in fp32 is, up to `times` its largest error.
    pub(crate) fn check_beside_exact(self, tolerance: f64, times: f64) {
        let (expected, exact) = (self.expected("fp32"), self.expected("fp64"));
        for (name, found) in &self.found {
            let theirs = difference(&format!("{name}, reference"), &expected[name], &exact[name]);
            let allowed = tolerance.max(times * theirs.max_abs);
            assert_close(name, found, &exact[name], allowed);
        }
    }

    fn expected(&self, dtype: &str) -> oracle::Tensors {
        let case = json!({ "model": self.model, "dtype": dtype, "calls": self.calls });
        let inputs: Vec<(&str, &Tensor)> = self
            .inputs
            .iter()
            .map(|(name, input)| (name.as_str(), input))
            .collect();
        oracle::ask(self.program, &case, &inputs)
    }
}
