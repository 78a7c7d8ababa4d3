//! What a page shows before the clip plays: poster, animated preview, sprite sheet.

use ffmpeg_next::codec;
use ffmpeg_next::{Dictionary, Packet, Rational, encoder, format, frame};
use image::codecs::jpeg::JpegEncoder;
use image::{RgbImage, imageops};

use super::error::{Action as _, EncodeError};
use super::spec::EncoderSpec;

/// Of the preview and of a tile of the sprite sheet.
const THUMBNAIL_SIDE_MAX: u32 = 256;
const POSTER: Effort = Effort {
    quality: "85",
    method: "4",
};
/// Method 2 takes half the time of 4, for 6 % more bytes; the last frames' share of it is what a finished clip waits for.
const PREVIEW: Effort = Effort {
    quality: "70",
    method: "2",
};
const SPRITESHEET_QUALITY: u8 = 85;

/// Encodes the first frame at full size as a lossy WebP.
pub(super) fn poster(picture: &RgbImage) -> Result<Vec<u8>, EncodeError> {
    let mut webp = Webp::open("libwebp", POSTER, picture.dimensions(), 1)?;
    webp.write(picture)?;
    webp.finish()
}

/// Encodes frames of one size as a lossy animated WebP, looped.
///
/// # Errors
/// No frame, or what ffmpeg says.
pub fn moving_picture<'a>(
    frames: impl IntoIterator<Item = &'a RgbImage>,
    fps: u32,
) -> Result<Vec<u8>, EncodeError> {
    let mut frames = frames.into_iter().peekable();
    let size = frames.peek().map_or((0, 0), |frame| frame.dimensions());
    super::init()?;
    let mut webp = Webp::open("libwebp_anim", PREVIEW, size, fps)?;
    for frame in frames {
        webp.write(frame)?;
    }
    webp.finish()
}

/// The small pictures of a clip. The preview is encoded as they come; the sprite sheet needs them all.
pub(super) struct Thumbnails {
    width: u32,
    height: u32,
    preview: Webp,
    tiles: Vec<RgbImage>,
}

impl Thumbnails {
    pub(super) fn new(spec: &EncoderSpec) -> Result<Self, EncodeError> {
        let (width, height) = thumbnail_size(spec.width, spec.height);
        Ok(Self {
            width,
            height,
            preview: Webp::open("libwebp_anim", PREVIEW, (width, height), spec.fps)?,
            tiles: Vec::with_capacity(spec.frames as usize),
        })
    }

    pub(super) fn write(&mut self, picture: &RgbImage) -> Result<(), EncodeError> {
        let tile = if picture.dimensions() == (self.width, self.height) {
            picture.clone()
        } else {
            imageops::thumbnail(picture, self.width, self.height)
        };
        self.preview.write(&tile)?;
        self.tiles.push(tile);
        Ok(())
    }

    /// The preview (animated WebP, looped) and the sprite sheet (JPEG), in this order.
    pub(super) fn finish(self) -> Result<(Vec<u8>, Vec<u8>), EncodeError> {
        Ok((self.preview.finish()?, spritesheet(&self.tiles)?))
    }
}

/// Fits the longer side into [`THUMBNAIL_SIDE_MAX`] and never enlarges.
fn thumbnail_size(width: u32, height: u32) -> (u32, u32) {
    let longer = width.max(height);
    if longer <= THUMBNAIL_SIDE_MAX {
        return (width, height);
    }
    let scale = |side: u32| (side * THUMBNAIL_SIDE_MAX / longer).max(1);
    (scale(width), scale(height))
}

/// Lays the tiles out row by row in the grid nearest to a square; cells without a frame stay black.
fn spritesheet(tiles: &[RgbImage]) -> Result<Vec<u8>, EncodeError> {
    let (tile_width, tile_height) = tiles.first().map_or((1, 1), RgbImage::dimensions);
    let count = tiles.len().max(1) as u32;
    let columns = count.isqrt() + u32::from(count.isqrt().pow(2) < count);
    let mut sheet = RgbImage::new(columns * tile_width, count.div_ceil(columns) * tile_height);
    for (index, tile) in (0..).zip(tiles) {
        let (column, row) = (index % columns, index / columns);
        imageops::replace(
            &mut sheet,
            tile,
            i64::from(column * tile_width),
            i64::from(row * tile_height),
        );
    }
    let mut jpeg = Vec::new();
    sheet.write_with_encoder(JpegEncoder::new_with_quality(
        &mut jpeg,
        SPRITESHEET_QUALITY,
    ))?;
    Ok(jpeg)
}

/// What libwebp is asked for.
#[derive(Clone, Copy)]
struct Effort {
    /// 0..=100.
    quality: &'static str,
    /// How hard it tries to be small, 0..=6.
    method: &'static str,
}

/// One WebP file, still or animated. libavcodec's two WebP encoders hand out whole files, so no muxer is involved.
struct Webp {
    encoder: encoder::Video,
    bgra: frame::Video,
    frames: i64,
    file: Vec<u8>,
}

impl Webp {
    fn open(
        codec: &'static str,
        effort: Effort,
        (width, height): (u32, u32),
        fps: u32,
    ) -> Result<Self, EncodeError> {
        let found = encoder::find_by_name(codec).ok_or(EncodeError::CodecMissing(codec))?;
        let mut context = codec::Context::new_with_codec(found);
        context.set_flags(codec::Flags::BITEXACT);
        context.set_time_base(Rational(1, fps as i32));
        let mut video = context
            .encoder()
            .video()
            .action("prepare the webp encoder")?;
        video.set_width(width);
        video.set_height(height);
        video.set_format(format::Pixel::BGRA);
        let mut options = Dictionary::new();
        options.set("quality", effort.quality);
        // Counts only without a preset.
        options.set("preset", "none");
        options.set("compression_level", effort.method);
        let encoder = video.open_with(options).action("open the webp encoder")?;
        Ok(Self {
            encoder,
            bgra: frame::Video::new(format::Pixel::BGRA, width, height),
            frames: 0,
            file: Vec::new(),
        })
    }

    fn write(&mut self, picture: &RgbImage) -> Result<(), EncodeError> {
        let stride = self.bgra.stride(0);
        let width = picture.width() as usize;
        for (row, pixels) in self
            .bgra
            .data_mut(0)
            .chunks_mut(stride)
            .zip(picture.as_raw().chunks_exact(width * 3))
        {
            for (bgra, rgb) in row.chunks_exact_mut(4).zip(pixels.chunks_exact(3)) {
                bgra.copy_from_slice(&[rgb[2], rgb[1], rgb[0], u8::MAX]);
            }
        }
        self.bgra.set_pts(Some(self.frames));
        self.frames += 1;
        self.encoder
            .send_frame(&self.bgra)
            .action("encode a webp frame")?;
        self.drain()
    }

    fn finish(mut self) -> Result<Vec<u8>, EncodeError> {
        self.encoder.send_eof().action("flush the webp encoder")?;
        self.drain()?;
        Ok(self.file)
    }

    fn drain(&mut self) -> Result<(), EncodeError> {
        let mut packet = Packet::empty();
        loop {
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => self
                    .file
                    .extend_from_slice(packet.data().unwrap_or_default()),
                Err(ffmpeg_next::Error::Eof) => return Ok(()),
                Err(ffmpeg_next::Error::Other {
                    errno: ffmpeg_next::error::EAGAIN,
                }) => return Ok(()),
                Err(source) => return Err(source).action("encode a webp frame"),
            }
        }
    }
}
