//! RGB to YUV as the clip's tags declare it: BT.709 matrix, limited range, chroma sited left.

use ffmpeg_next::ffi;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;
use ffmpeg_next::software::scaling;
use image::RgbImage;

use super::error::{Action as _, EncodeError};

/// Converts full-range RGB frames of one size to yuv420p.
pub(super) struct RgbToYuv {
    context: scaling::Context,
    rgb: frame::Video,
}

impl RgbToYuv {
    pub(super) fn new(width: u32, height: u32) -> Result<Self, EncodeError> {
        // Exact rounding gives the same bytes on every instruction set; the default paths do not.
        let flags = scaling::Flags::BICUBIC
            | scaling::Flags::ACCURATE_RND
            | scaling::Flags::BITEXACT
            | scaling::Flags::FULL_CHR_H_INP;
        let mut context = scaling::Context::get(
            Pixel::RGB24,
            width,
            height,
            Pixel::YUV420P,
            width,
            height,
            flags,
        )
        .action("prepare the colour conversion")?;
        use_bt709(&mut context)?;
        Ok(Self {
            context,
            rgb: frame::Video::new(Pixel::RGB24, width, height),
        })
    }

    pub(super) fn convert(&mut self, picture: &RgbImage) -> Result<frame::Video, EncodeError> {
        let stride = self.rgb.stride(0);
        let row_bytes = picture.width() as usize * 3;
        for (row, pixels) in self
            .rgb
            .data_mut(0)
            .chunks_mut(stride)
            .zip(picture.as_raw().chunks_exact(row_bytes))
        {
            row[..row_bytes].copy_from_slice(pixels);
        }
        let mut yuv = frame::Video::empty();
        self.context
            .run(&self.rgb, &mut yuv)
            .action("convert a frame to yuv420p")?;
        Ok(yuv)
    }
}

/// swscale assumes BT.601 unless told; players believe the tags, and the difference is visible in every saturated colour.
#[allow(unsafe_code)]
fn use_bt709(context: &mut scaling::Context) -> Result<(), EncodeError> {
    const FULL_RANGE: i32 = 1;
    const LIMITED_RANGE: i32 = 0;
    const UNCHANGED: i32 = 1 << 16;
    // SAFETY: the context is valid for the borrow; sws_getCoefficients returns a static table, which
    // sws_setColorspaceDetails copies.
    let status = unsafe {
        let bt709 = ffi::sws_getCoefficients(ffi::SWS_CS_ITU709);
        ffi::sws_setColorspaceDetails(
            context.as_mut_ptr(),
            bt709,
            FULL_RANGE,
            bt709,
            LIMITED_RANGE,
            0,
            UNCHANGED,
            UNCHANGED,
        )
    };
    match status {
        0.. => Ok(()),
        error => Err(ffmpeg_next::Error::from(error)).action("choose the BT.709 matrix"),
    }
}
