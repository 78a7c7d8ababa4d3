//! Collects tensor specs layer by layer; each method is one layer type of the reference.

use super::TensorSpec;

/// Kernel of every convolution over time: three frames, one pixel.
const TIME_KERNEL: [usize; 3] = [3, 1, 1];

#[derive(Default)]
pub(super) struct Builder {
    tensors: Vec<TensorSpec>,
}

impl Builder {
    pub(super) fn finish(self) -> Vec<TensorSpec> {
        self.tensors
    }

    pub(super) fn tensor(&mut self, name: String, shape: &[usize]) {
        self.tensors.push(TensorSpec {
            name,
            shape: shape.to_vec(),
        });
    }

    /// A norm's scale and shift, group norm and layer norm alike.
    pub(super) fn norm(&mut self, path: &str, channels: usize) {
        self.tensor(format!("{path}.weight"), &[channels]);
        self.tensor(format!("{path}.bias"), &[channels]);
    }

    pub(super) fn linear(&mut self, path: &str, input: usize, output: usize) {
        self.linear_without_bias(path, input, output);
        self.tensor(format!("{path}.bias"), &[output]);
    }

    pub(super) fn linear_without_bias(&mut self, path: &str, input: usize, output: usize) {
        self.tensor(format!("{path}.weight"), &[output, input]);
    }

    pub(super) fn conv2d(&mut self, path: &str, input: usize, output: usize, kernel: usize) {
        self.tensor(format!("{path}.weight"), &[output, input, kernel, kernel]);
        self.tensor(format!("{path}.bias"), &[output]);
    }

    /// A convolution over time alone.
    pub(super) fn conv3d(&mut self, path: &str, input: usize, output: usize) {
        let [time, height, width] = TIME_KERNEL;
        self.tensor(
            format!("{path}.weight"),
            &[output, input, time, height, width],
        );
        self.tensor(format!("{path}.bias"), &[output]);
    }

    /// `AlphaBlender`: one learned number.
    pub(super) fn mixer(&mut self, path: &str) {
        self.tensor(format!("{path}.mix_factor"), &[1]);
    }

    /// `ResnetBlock2D`; `time` is the width of the time embedding, `None` where the VAE has none.
    pub(super) fn resnet2d(
        &mut self,
        path: &str,
        input: usize,
        output: usize,
        time: Option<usize>,
    ) {
        self.norm(&format!("{path}.norm1"), input);
        self.conv2d(&format!("{path}.conv1"), input, output, 3);
        if let Some(time) = time {
            self.linear(&format!("{path}.time_emb_proj"), time, output);
        }
        self.norm(&format!("{path}.norm2"), output);
        self.conv2d(&format!("{path}.conv2"), output, output, 3);
        if input != output {
            self.conv2d(&format!("{path}.conv_shortcut"), input, output, 1);
        }
    }

    /// `SpatioTemporalResBlock`: a resnet over each frame, one over time, and their mix.
    pub(super) fn spatio_temporal_resnet(
        &mut self,
        path: &str,
        input: usize,
        output: usize,
        time: Option<usize>,
    ) {
        self.resnet2d(&format!("{path}.spatial_res_block"), input, output, time);
        let temporal = format!("{path}.temporal_res_block");
        self.norm(&format!("{temporal}.norm1"), output);
        self.conv3d(&format!("{temporal}.conv1"), output, output);
        if let Some(time) = time {
            self.linear(&format!("{temporal}.time_emb_proj"), time, output);
        }
        self.norm(&format!("{temporal}.norm2"), output);
        self.conv3d(&format!("{temporal}.conv2"), output, output);
        self.mixer(&format!("{path}.time_mixer"));
    }
}
