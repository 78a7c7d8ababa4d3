use tch::{Device, Tensor};

use crate::error::Result;

/// Below so many elements a frame, one call for all frames costs less than many small ones.
const LARGE_FRAME_ELEMENTS: i64 = 1 << 18;

/// Applies `module`, which looks at no neighbours, to (B, F, H, W, C).
///
/// Large frames go one after the other on a CPU: what the module needs in between is then held of one frame and not of all,
/// which is most of a decoder's memory, and one frame is work enough for all cores.
pub fn each_frame_alone(x: &Tensor, module: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let (batch, frames, height, width, channels) = x.size5()?;
    if x.device() != Device::Cpu || height * width * channels < LARGE_FRAME_ELEMENTS {
        return module(x);
    }
    one_by_one(x, batch * frames, module)
}

fn one_by_one(
    x: &Tensor,
    count: i64,
    module: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (batch, frames, height, width, channels) = x.size5()?;
    let x = x.f_view([count, 1, height, width, channels])?;
    let mut all: Option<Tensor> = None;
    for index in 0..count {
        let y = module(&x.f_narrow(0, index, 1)?)?;
        let (_, _, height, width, channels) = y.size5()?;
        let all = match &mut all {
            Some(all) => all,
            None => all.insert(Tensor::f_empty(
                [count, 1, height, width, channels],
                (y.f_kind()?, y.device()),
            )?),
        };
        all.f_narrow(0, index, 1)?.f_copy_(&y)?;
    }
    match all {
        Some(all) => {
            let (_, _, height, width, channels) = all.size5()?;
            Ok(all.f_view([batch, frames, height, width, channels])?)
        }
        None => module(&x),
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn frames_come_back_in_their_places() {
        let x = Tensor::arange(2 * 3 * 4 * 5 * 6, (Kind::Float, Device::Cpu)).view([2, 3, 4, 5, 6]);
        // Twice the width, half the channels.
        let module = |x: &Tensor| {
            let (batch, frames, height, width, channels) = x.size5()?;
            Ok(x.f_mul_scalar(2.0)?
                .f_view([batch, frames, height, 2 * width, channels / 2])?)
        };
        let found = one_by_one(&x, 6, module).unwrap();
        assert_eq!(found.size(), [2, 3, 4, 10, 3]);
        assert_eq!(found, module(&x).unwrap());
    }
}
