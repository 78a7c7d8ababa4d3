//! Gathers every field of a spec that is out of its range.

use super::{AdapterUse, InvalidField};
use crate::limits::{ADAPTER_WEIGHT_ABS_MAX, ADAPTERS_MAX};

#[derive(Default)]
pub(super) struct Check {
    invalid: Vec<InvalidField>,
}

impl Check {
    /// A NaN lies in no range.
    pub(super) fn range<T: PartialOrd + std::fmt::Display>(
        &mut self,
        field: &str,
        value: T,
        min: T,
        max: T,
    ) {
        self.require(min <= value && value <= max, field, || {
            format!("must be {min}..={max} (got {value})")
        });
    }

    pub(super) fn require(&mut self, holds: bool, field: &str, detail: impl FnOnce() -> String) {
        if !holds {
            self.invalid.push(InvalidField {
                field: field.to_owned(),
                detail: detail(),
            });
        }
    }

    /// `field` is the list's path.
    pub(super) fn adapters(&mut self, field: &str, adapters: &[AdapterUse]) {
        self.require(adapters.len() <= ADAPTERS_MAX, field, || {
            format!("must be at most {ADAPTERS_MAX} (got {})", adapters.len())
        });
        for (i, adapter) in adapters.iter().enumerate() {
            self.range(
                &format!("{field}[{i}].weight"),
                adapter.weight,
                -ADAPTER_WEIGHT_ABS_MAX,
                ADAPTER_WEIGHT_ABS_MAX,
            );
            let named_before = adapters[..i]
                .iter()
                .any(|other| other.sha256 == adapter.sha256);
            self.require(!named_before, &format!("{field}[{i}]"), || {
                "names an adapter a second time; add the weights instead".to_owned()
            });
        }
    }

    pub(super) fn finish(self) -> Result<(), Vec<InvalidField>> {
        if self.invalid.is_empty() {
            Ok(())
        } else {
            Err(self.invalid)
        }
    }
}
