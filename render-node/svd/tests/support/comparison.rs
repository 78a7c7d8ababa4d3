//! Many modules of one model against the oracle in one go: starting Python costs more than computing.

use serde_json::{Value, json};
use tch::Tensor;

use super::compare::assert_close;
use super::models::Model;
use super::oracle;

pub(crate) struct Comparison<'m> {
    model: &'m Model,
    calls: Vec<Value>,
    inputs: Vec<(String, Tensor)>,
    found: Vec<(String, Tensor)>,
}

impl<'m> Comparison<'m> {
    pub(crate) fn of(model: &'m Model) -> Self {
        Self {
            model,
            calls: Vec::new(),
            inputs: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Notes that `found` should be what `kind` of `oracle/modules.py` makes of `inputs`; `settings` is what else it reads.
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
        let case = json!({ "model": self.model.path(), "dtype": "fp32", "calls": self.calls });
        let inputs: Vec<(&str, &Tensor)> = self
            .inputs
            .iter()
            .map(|(name, input)| (name.as_str(), input))
            .collect();
        let expected = oracle::ask("modules.py", &case, &inputs);
        for (name, found) in &self.found {
            assert_close(name, found, &expected[name], tolerance);
        }
    }
}
