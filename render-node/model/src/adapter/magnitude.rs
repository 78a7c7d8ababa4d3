use super::{AdapterProblem, Module};
use crate::safetensors::TensorView;

/// DoRA's magnitude: how long each row or column of the changed weight is made (Liu and others, arXiv 2402.09353).
///
/// `W' = m * (W + scale * up @ down) / |W + scale * up @ down|`, the norm over all dimensions but `axis`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Magnitude {
    /// One number for each index of the axis, in its order.
    pub values: TensorView,
    pub axis: MagnitudeAxis,
}

/// Which dimension of the weight the magnitude has its numbers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MagnitudeAxis {
    Output,
    Input,
}

/// Who wrote a magnitude: their shapes mean different axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MagnitudeForm {
    /// `lora_magnitude_vector`: (out), for convolutions (1, out, 1..). Always of the outputs.
    Peft,
    /// `dora_scale`: (out, 1..) with LyCORIS' `wd_on_output`, else (1, in, 1..).
    Lycoris,
}

impl Module {
    /// The magnitude when its shape is one that its writer gives to this weight.
    pub(super) fn magnitude(
        &self,
        form: MagnitudeForm,
        (key, values): (String, TensorView),
        problems: &mut Vec<AdapterProblem>,
    ) -> Option<Magnitude> {
        let (out, input) = (self.weight_shape[0], self.weight_shape[1]);
        let ones = vec![1; self.weight_shape.len() - 2];
        let with_ones = |first: usize, second: usize| [&[first, second], ones.as_slice()].concat();
        let allowed = match form {
            MagnitudeForm::Peft if ones.is_empty() => vec![(vec![out], MagnitudeAxis::Output)],
            MagnitudeForm::Peft => vec![(with_ones(1, out), MagnitudeAxis::Output)],
            MagnitudeForm::Lycoris => vec![
                (with_ones(out, 1), MagnitudeAxis::Output),
                (with_ones(1, input), MagnitudeAxis::Input),
            ],
        };
        if let Some((_, axis)) = allowed.iter().find(|(shape, _)| *shape == values.shape) {
            let axis = *axis;
            return Some(Magnitude { values, axis });
        }
        let shapes: Vec<String> = allowed
            .iter()
            .map(|(shape, _)| format!("{shape:?}"))
            .collect();
        problems.push(AdapterProblem::Shape {
            key,
            found: values.shape,
            expected: format!(
                "{} to change a weight of {:?}",
                shapes.join(" or "),
                self.weight_shape
            ),
        });
        None
    }
}
