//! Goal: an image file conditions a clip exactly as it does in diffusers.
//! Method: pictures of many shapes through Pillow, diffusers and transformers in the oracle, and through `Picture` here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use flowai_svd::Picture;
use image::{DynamicImage, ImageBuffer, LumaA, Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::{Value, json};
use support::compare::assert_close;
use support::oracle::{self, Tensors};
use support::{inputs, models};
use tch::{Kind, Tensor};

struct Case {
    name: &'static str,
    file: PathBuf,
    /// Width and height for the VAE.
    size: (u32, u32),
    clip_size: i64,
}

impl Case {
    /// A picture whose content matters and not its size.
    fn small(name: &'static str, file: PathBuf) -> Self {
        Self {
            name,
            file,
            size: (48, 32),
            clip_size: 32,
        }
    }

    fn to_json(&self) -> Value {
        let (width, height) = self.size;
        json!({
            "name": self.name,
            "file": self.file,
            "width": width,
            "height": height,
            "clip_size": self.clip_size,
        })
    }
}

#[test]
fn png_pictures_equal_pillow_and_diffusers() {
    let dir = tempfile::tempdir().unwrap();
    let case = |name, (width, height), size, clip_size| Case {
        name,
        file: inputs::write_picture(dir.path(), width, height),
        size,
        clip_size,
    };
    check(&[
        // Under 224 px the Gaussian does nothing: the cubic filter alone.
        case("small landscape, down", (100, 75), (64, 40), 224),
        case("landscape, down", (640, 400), (256, 144), 224),
        case("portrait, down", (400, 640), (144, 256), 224),
        case("portrait, up", (75, 100), (256, 320), 224),
        case("one side up, the other down", (300, 90), (120, 200), 224),
        case("one side stays", (64, 90), (64, 40), 32),
        case("same size", (64, 40), (64, 40), 32),
        // Pillow takes the columns first.
        case(
            "one side up, the other far down",
            (90, 300),
            (200, 120),
            224,
        ),
        case("both down, the height far more", (100, 297), (80, 256), 224),
        case(
            "both down, the height just not far enough",
            (100, 296),
            (80, 256),
            224,
        ),
        case("thin", (2, 500), (8, 64), 32),
        case("full size", (1920, 1080), (1024, 576), 224),
    ]);
}

#[test]
fn exif_orientation_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let plain = fs::read(inputs::write_picture(dir.path(), 60, 40)).unwrap();
    let names = ["1", "2", "3", "4", "5", "6", "7", "8"];
    let cases = names.map(|name| {
        let file = dir.path().join(format!("orientation-{name}.png"));
        let orientation = name.parse().unwrap();
        fs::write(&file, with_orientation(&plain, orientation)).unwrap();
        Case::small(name, file)
    });
    check(&cases);
}

#[test]
fn sixteen_bits_are_reduced_as_by_pillow() {
    let dir = tempfile::tempdir().unwrap();
    let colours = inputs::values("sixteen bits", &[60 * 40 * 4], 0).sigmoid();
    let colours = Vec::<f32>::try_from(colours).unwrap();
    let colours: Vec<u16> = colours.iter().map(|x| (x * 65535.0) as u16).collect();
    let at = |x: u32, y: u32| &colours[((y * 60 + x) * 4) as usize..][..4];
    let rgb = ImageBuffer::from_fn(60, 40, |x, y| Rgb([at(x, y)[0], at(x, y)[1], at(x, y)[2]]));
    let rgba = ImageBuffer::from_fn(60, 40, |x, y| {
        let rgba = at(x, y);
        Rgba([rgba[0], rgba[1], rgba[2], rgba[3]])
    });
    let grey = ImageBuffer::from_fn(60, 40, |x, y| LumaA([at(x, y)[0], at(x, y)[1]]));
    let pictures: [(&str, DynamicImage); 3] = [
        ("colour", rgb.into()),
        ("colour with transparency", rgba.into()),
        ("grey with transparency", grey.into()),
    ];
    let cases = pictures.map(|(name, picture)| {
        let file = dir.path().join(format!("{name}.png"));
        picture.save(&file).unwrap();
        Case::small(name, file)
    });
    check(&cases);
}

#[test]
fn webp_equals_pillow() {
    let dir = tempfile::tempdir().unwrap();
    let picture = inputs::picture(60, 40);
    let file = |name: &str| dir.path().join(format!("{name}.webp"));
    picture.save(file("own")).unwrap();
    save_by_pillow(&picture, &file("lossless"), "lossless=True");
    save_by_pillow(&picture, &file("lossy"), "quality=80");
    let transparent = RgbaImage::from_fn(60, 40, |x, y| {
        let Rgb([r, g, b]) = *picture.get_pixel(x, y);
        Rgba([r, g, b, (x * 4) as u8])
    });
    transparent.save(file("transparent")).unwrap();
    let names = ["own", "lossless", "lossy", "transparent"];
    check(&names.map(|name| Case::small(name, file(name))));
}

#[test]
fn jpeg_is_near_pillow() {
    let dir = tempfile::tempdir().unwrap();
    // Neither side is a multiple of a block's, with or without halved colours.
    let picture = inputs::picture(203, 149);
    // The standard leaves rounding to the decoder, and how halved colours become whole again.
    let cases = [
        ("colours whole", "quality=90, subsampling=0", (3, 0.03)),
        (
            "colours halved across",
            "quality=90, subsampling=1",
            (3, 0.2),
        ),
        (
            "colours halved both ways",
            "quality=75, subsampling=2",
            (4, 0.4),
        ),
        ("progressive", "quality=90, progressive=True", (4, 0.4)),
    ];
    let pictures = cases.map(|(name, how, _)| {
        let file = dir.path().join(format!("{name}.jpg"));
        save_by_pillow(&picture, &file, how);
        Case::small(name, file)
    });
    let expected = ask(&pictures);
    for (picture, (name, _, (levels_max, mean_max))) in pictures.iter().zip(cases) {
        let found = as_tensor(&Picture::open(&picture.file).unwrap());
        let expected = &expected[&format!("{name}.rgb")];
        assert_eq!(found.size(), expected.size(), "{name}");
        let differences = (found.to_kind(Kind::Int) - expected).abs();
        let levels = differences.max().int64_value(&[]);
        let mean = differences.mean(Kind::Float).double_value(&[]);
        assert!(
            levels <= levels_max && mean <= mean_max,
            "{name}: up to {levels} levels, {mean} on average"
        );
    }
}

/// Lets Pillow write the picture, with these arguments of its `save`.
fn save_by_pillow(picture: &RgbImage, file: &Path, how: &str) {
    let png = file.with_extension("png");
    picture.save(&png).unwrap();
    let program = format!(
        "import sys\nfrom PIL import Image\nImage.open(sys.argv[1]).save(sys.argv[2], {how})"
    );
    let saved = Command::new(oracle::python())
        .args(["-c", &program])
        .args([&png, file])
        .status();
    assert!(saved.unwrap().success());
}

/// Bit for bit in eight bits, and within rounding in floats.
fn check(cases: &[Case]) {
    let expected = ask(cases);
    for case in cases {
        check_one(case, &expected);
    }
}

fn ask(cases: &[Case]) -> Tensors {
    let pictures: Vec<Value> = cases.iter().map(Case::to_json).collect();
    oracle::ask("pictures.py", &json!({ "pictures": pictures }), &[])
}

fn check_one(case: &Case, expected: &Tensors) {
    let expected = |stage: &str| &expected[&format!("{}.{stage}", case.name)];
    let picture = Picture::open(&case.file).unwrap();
    let (width, height) = case.size;
    assert_eq_bytes(case, &picture, expected("rgb"));
    assert_eq_bytes(
        case,
        &picture.resized(width, height).unwrap(),
        expected("resized"),
    );
    let conditioning = picture.conditioning(width, height).unwrap();
    assert_close(case.name, &conditioning, expected("conditioning"), 0.0);

    let clip = models::dummy().preprocessor;
    let pixels = picture
        .clip_pixels(case.clip_size, clip.image_mean, clip.image_std)
        .unwrap();
    assert_close(case.name, &pixels, expected("clip"), 1e-5);
}

fn assert_eq_bytes(case: &Case, found: &Picture, expected: &Tensor) {
    let found = as_tensor(found);
    assert_eq!(found.size(), expected.size(), "{}", case.name);
    let differing = found.ne_tensor(expected).sum(Kind::Int64).int64_value(&[]);
    assert_eq!(differing, 0, "{}: bytes differ from Pillow's", case.name);
}

/// (H, W, 3) u8.
fn as_tensor(picture: &Picture) -> Tensor {
    let size = [i64::from(picture.height()), i64::from(picture.width()), 3];
    Tensor::from_data_size(picture.rgb(), &size, Kind::Uint8)
}

/// The PNG with an `eXIf` chunk after its header that says nothing but the orientation, 1..=8.
fn with_orientation(png: &[u8], orientation: u8) -> Vec<u8> {
    const HEADER_END: usize = 8 + 25;
    // TIFF, little endian, one directory with one entry: tag 0x0112, one SHORT.
    let exif = [
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(),
        &[orientation, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let named = [b"eXIf".as_slice(), &exif].concat();
    let length = u32::try_from(exif.len()).unwrap().to_be_bytes();
    let checksum = crc32(&named).to_be_bytes();
    let (header, rest) = png.split_at(HEADER_END);
    [header, &length, &named, &checksum, rest].concat()
}

/// PNG's checksum (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    let byte = |crc: u32, &byte: &u8| (0..8).fold(crc ^ u32::from(byte), step);
    !bytes.iter().fold(u32::MAX, byte)
}
