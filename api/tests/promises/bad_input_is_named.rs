//! Goal: a clear answer that names what is wrong, and nothing stored of it.
//! Method: tables of bad files, fields and tokens, each with the status, the code and the words of its answer. A good one of each
//! kind passes beside them.

use std::io::Cursor;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use flowai_actors::limits::ADAPTERS_MAX;
use flowai_model::Preset;
use image::{GrayImage, ImageFormat};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};

use crate::farm::{Answer, Caller, Farm, adapter, adapter_of, picture, tiny_offer, wish};

#[tokio::test(flavor = "multi_thread")]
async fn files_of_somebody_who_stores_too_much() {
    let farm = Farm::start().await;
    let (ada, bob) = (farm.user("ada").await, farm.user("bob").await);
    let stored = ada.upload("image", picture(64, 48)).await.expect(201).id();
    farm.run(&format!(
        "update upload set bytes = 5::bigint << 30 where id = '{stored}'"
    ))
    .await;
    let refused = ada.upload("image", picture(64, 48)).await;
    let problem = refused.expect_problem(507, "storage_full");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("more than 5 GiB"), "{detail}");
    bob.upload("image", picture(64, 48)).await.expect(201);
    ada.delete(&format!("/v1/uploads/{stored}"))
        .await
        .expect(204);
    ada.upload("image", picture(64, 48)).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let png = picture(64, 48);
    let cut = png[..png.len() - 20].to_vec();
    let bomb = {
        let mut bytes = Cursor::new(Vec::new());
        let black = GrayImage::new(8_192, 8_192);
        black.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    assert!(bomb.len() < 1_000_000, "a bomb is small: {}", bomb.len());
    let cases: [(&str, Vec<u8>, &str); 12] = [
        ("nothing", Vec::new(), "is no png, jpeg or webp"),
        (
            "text",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(),
            "is no png, jpeg or webp",
        ),
        (
            "another format",
            b"GIF89a\x01\x00\x01\x00".to_vec(),
            "is no png, jpeg or webp",
        ),
        (
            "an archive",
            b"PK\x03\x04 data.pkl".to_vec(),
            "is no png, jpeg or webp",
        ),
        ("a head alone", png[..8].to_vec(), "cannot be read as png"),
        ("half of one", cut, "cannot be read as png"),
        (
            "60000x60000",
            sized(&png, 60_000, 60_000),
            "60000x60000 pixels; each side must be at most 8192",
        ),
        (
            "a long one",
            sized(&png, 1, 8_193),
            "1x8193 pixels; each side must be at most 8192",
        ),
        ("no width", sized(&png, 0, 48), "has 0 pixels (0x48)"),
        ("no height", sized(&png, 64, 0), "has 0 pixels (64x0)"),
        ("one pixel", picture(1, 1), "each side must be at least 2"),
        (
            "a bomb",
            bomb,
            "8192x8192 pixels; at most 40000000 pixels are read",
        ),
    ];
    for (name, bytes, words) in cases {
        let answer = ada.upload("image", bytes).await;
        let problem = answer.expect_problem(422, "file_refused");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.starts_with("file ") && detail.contains(words),
            "{name}: {detail}"
        );
    }
    let too_large = ada.upload("image", vec![0; (32 << 20) + 1]).await;
    too_large.expect_problem(413, "body_too_large");
    assert_eq!(farm.number("select count(*) from upload").await, 0);
    assert_eq!(farm.objects.list("uploads/", None, 1).await.unwrap(), []);
    ada.upload("image", png).await.expect(201);
    ada.upload("image", picture(2, 2)).await.expect(201);
}

/// The same PNG with another size in its header, whose checksum is right.
fn sized(png: &[u8], width: u32, height: u32) -> Vec<u8> {
    let mut png = png.to_vec();
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&checksum.to_be_bytes());
    png
}

/// As of RFC 1952, 8, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// A safetensors file of this header and data.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), data].concat()
}

fn two_tensors(second: [usize; 2], data: &[u8]) -> Vec<u8> {
    let header = json!({
        "a": { "dtype": "F32", "shape": [2], "data_offsets": [0, 8] },
        "b": { "dtype": "F32", "shape": [2], "data_offsets": second },
    });
    safetensors(&header.to_string(), data)
}

#[tokio::test(flavor = "multi_thread")]
async fn adapter_files() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let nan = [[0; 4], f32::NAN.to_le_bytes(), [0; 4], [0; 4]].concat();
    let infinite = [f32::INFINITY.to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat();
    let bloated = format!("{{{}}}", " ".repeat(90 << 20));
    let cases: [(&str, Vec<u8>, &str); 10] = [
        (
            "a 90 MB header",
            safetensors(&bloated, &[]),
            "header would be 94371842 bytes long",
        ),
        ("overlap", two_tensors([4, 12], &[0; 12]), "overlap"),
        (
            "a hole",
            two_tensors([12, 20], &[0; 20]),
            "belong to no tensor",
        ),
        (
            "NaN",
            two_tensors([8, 16], &nan),
            "has NaN or an infinity at element 1",
        ),
        (
            "infinity",
            two_tensors([8, 16], &infinite),
            "has NaN or an infinity at element 0",
        ),
        (
            "cut off",
            two_tensors([8, 16], &[0; 12]),
            "there are only 12",
        ),
        (
            "a pickle",
            b"\x80\x02}q\x00X\x04\x00\x00\x00evil".to_vec(),
            "is a pickle",
        ),
        (
            "torch.save",
            b"PK\x03\x04archive/data.pkl".to_vec(),
            "is a zip archive",
        ),
        ("nothing", Vec::new(), "too short"),
        ("a picture", picture(64, 48), "file"),
    ];
    for (name, bytes, words) in cases {
        let answer = ada.upload("adapter", bytes).await;
        let problem = answer.expect_problem(422, "file_refused");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.starts_with("file ") && detail.contains(words),
            "{name}: {detail}"
        );
    }
    assert_eq!(farm.number("select count(*) from upload").await, 0);
    ada.adapter(1).await;
}

/// An adapter for `tiny` one of whose halves has its rows for columns, and what the answer must say of it.
fn swapped_adapter() -> (Vec<u8>, String) {
    let file = adapter(1);
    let (length, rest) = file.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let (header, data) = rest.split_at(length);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let tensors = header.as_object_mut().unwrap();
    let is_down = |key: &&String| key.ends_with(".lora_A.weight");
    let key = tensors.keys().find(is_down).unwrap().clone();
    let shape = tensors[&key]["shape"].as_array_mut().unwrap();
    let columns = shape[1].clone();
    shape.reverse();
    let words = format!("key {key:?} has shape [{columns}, 2], must have [rank, {columns}]");
    (safetensors(&header.to_string(), data), words)
}

/// `tiny` of the same layers for longer clips of another size, as svd-xt beside svd.
#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_fits_every_model_of_the_same_layers() {
    let farm = Farm::start().await;
    let mut longer = tiny_offer("longer");
    for (field, value) in [("num_frames", 33), ("sample_size", 48)] {
        assert_ne!(longer.unet_config[field], json!(value));
        longer.unet_config[field] = json!(value);
    }
    farm.offer(&longer).await;
    let ada = farm.user("ada").await;
    let file = ada.upload("adapter", adapter(1)).await.expect(201).id();
    let make = json!({ "upload": file, "model": "tiny", "name": "style" });
    let style = ada.post("/v1/adapters", &make).await.expect(201).id();
    let mut wish = wish(&ada.picture().await);
    wish["adapters"] = json!([{ "id": style, "weight": 1.0 }]);
    wish["model"] = json!("longer");
    ada.post("/v1/videos", &wish).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn adapters() {
    let farm = Farm::start().await;
    let mut middle = tiny_offer("middle");
    middle.unet_config = Preset::Middle.config().unet.to_json();
    farm.offer(&middle).await;
    let ada = farm.user("ada").await;
    let image = ada.picture().await;
    let file = ada.upload("adapter", adapter(1)).await.expect(201).id();
    let foreign = ada
        .upload("adapter", adapter_of(Preset::Middle, 1))
        .await
        .expect(201)
        .id();
    let (swapped, shapes) = swapped_adapter();
    let swapped = ada.upload("adapter", swapped).await.expect(201).id();
    let unknown = two_tensors([8, 16], &[0; 16]);
    let unknown = ada.upload("adapter", unknown).await.expect(201).id();
    let nobodys = "0198c0de-0000-7000-8000-000000000000";
    let make = async |upload: &str, model: &str, name: &str| {
        let wish = json!({ "upload": upload, "model": model, "name": name });
        ada.post("/v1/adapters", &wish).await
    };
    for (upload, model, name, status, code, words) in [
        (
            &*foreign,
            "tiny",
            "n",
            422,
            "adapter_incompatible",
            "for model tiny",
        ),
        (&unknown, "tiny", "n", 422, "adapter_incompatible", "\"a\""),
        (&swapped, "tiny", "n", 422, "adapter_incompatible", &shapes),
        (
            &file,
            "huge",
            "n",
            422,
            "impossible_job",
            "model \"huge\" is not offered",
        ),
        (
            &file,
            "../tiny",
            "n",
            422,
            "impossible_job",
            "is not offered",
        ),
        (nobodys, "tiny", "n", 404, "not_found", nobodys),
        (
            &image,
            "tiny",
            "n",
            422,
            "validation_failed",
            "upload must be",
        ),
        ("x", "tiny", "n", 422, "validation_failed", "upload"),
        (
            &file,
            "tiny",
            " ",
            422,
            "validation_failed",
            "name must be 1..=80",
        ),
        (
            &file,
            "tiny",
            "a\r\nb",
            422,
            "validation_failed",
            "name must be 1..=80",
        ),
        (
            &file,
            "tiny",
            &"n".repeat(81),
            422,
            "validation_failed",
            "name must be 1..=80",
        ),
    ] {
        let problem = make(upload, model, name).await.expect_problem(status, code);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{detail} lacks {words}");
    }
    let problem = make(&swapped, "tiny", "n")
        .await
        .expect_problem(422, "adapter_incompatible");
    // The other half is as it must be.
    assert!(
        !problem["detail"].to_string().contains("lora_B"),
        "{problem}"
    );
    assert_eq!(farm.number("select count(*) from adapter").await, 0);

    let id = make(&file, "tiny", "style").await.expect(201).id();
    let again = make(&file, "tiny", "style")
        .await
        .expect_problem(409, "state_conflict");
    assert!(again["detail"].as_str().unwrap().contains(&id));
    // One that fits another model is not dropped silently (INV-10).
    let mut other = wish(&image);
    other["model"] = "middle".into();
    other["adapters"] = json!([{ "id": id }]);
    let refused = ada.post("/v1/videos", &other).await;
    let detail = refused.expect_problem(422, "adapter_incompatible")["detail"].clone();
    assert!(detail.as_str().unwrap().contains(&id), "{detail}");
    other["model"] = "tiny".into();
    let video = ada.post("/v1/videos", &other).await.expect(202).json();
    assert_eq!(video["spec"]["adapters"].as_array().unwrap().len(), 1);
    ada.delete(&format!("/v1/adapters/{id}"))
        .await
        .expect_problem(409, "state_conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_a_wish() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let good = wish(&ada.picture().await);
    let adapter = ada.adapter(1).await;
    let adapter_file = ada.upload("adapter", self::adapter(3)).await.id();
    let cases = [
        ("frames", json!(0), "/frames"),
        ("frames", json!(26), "/frames"),
        ("frames", json!(-1), "/frames"),
        ("frames", json!(2.5), "/frames"),
        ("frames", json!("2"), "/frames"),
        ("steps", json!(0), "/steps"),
        ("steps", json!(101), "/steps"),
        ("fps", json!(0), "/fps"),
        ("fps", json!(61), "/fps"),
        ("width", json!(0), "/width"),
        ("width", json!(60), "/width"),
        ("width", json!(2_056), "/width"),
        ("height", json!(8), "/height"),
        ("height", json!(4_294_967_296_u64), "/height"),
        ("motion_bucket_id", json!(256), "/motion_bucket_id"),
        ("noise_aug_strength", json!(1.5), "/noise_aug_strength"),
        ("min_guidance_scale", json!(-1), "/min_guidance_scale"),
        ("max_guidance_scale", json!(1e9), "/max_guidance_scale"),
        ("decode_chunk_size", json!(0), "/decode_chunk_size"),
        ("seed", json!(1_u64 << 53), "/seed"),
        ("prompt", json!("p".repeat(2_001)), "/prompt"),
        ("prompt", json!("a\u{0}b"), "/prompt"),
        ("image", json!("../../etc/passwd"), "/image"),
        ("image", json!(null), "/image"),
        ("image", json!(adapter_file), "/image"),
        (
            "adapters",
            json!([{ "id": adapter, "weight": 5 }]),
            "/adapters/0/weight",
        ),
        (
            "adapters",
            json!([{ "id": adapter }, { "id": adapter }]),
            "/adapters/1",
        ),
        (
            "adapters",
            json!(vec![json!({ "id": adapter }); ADAPTERS_MAX + 1]),
            "/adapters",
        ),
        ("adapters", json!([{ "id": "x" }]), "/adapters/0/id"),
        (
            "adapters",
            json!([{ "id": adapter, "url": "http://10.0.0.1/" }]),
            "/adapters/0/url",
        ),
        ("price", json!(0), "/price"),
        ("owner_id", json!(1), "/owner_id"),
    ];
    for (field, value, pointer) in cases {
        let mut bad = good.clone();
        bad[field] = value.clone();
        let problem = ada.post("/v1/videos", &bad).await;
        let problem = problem.expect_problem(422, "validation_failed");
        assert_eq!(
            problem["errors"][0]["pointer"], pointer,
            "{field} {value}: {problem}"
        );
        let name = pointer.split('/').nth(1).unwrap();
        assert!(
            problem["detail"].as_str().unwrap().contains(name),
            "{problem}"
        );
    }
    // All that is wrong is said at once.
    let mut bad = good.clone();
    (bad["frames"], bad["fps"], bad["width"]) = (json!(0), json!(0), json!(1));
    let problem = ada.post("/v1/videos", &bad).await.json();
    let pointers: Vec<&Value> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["pointer"])
        .collect();
    assert_eq!(
        pointers,
        ["/frames", "/fps", "/width", "/width"],
        "{problem}"
    );

    for name in ["huge", "", "../tiny", "tiny\r\nx-evil: 1"] {
        let mut unknown = good.clone();
        unknown["model"] = name.into();
        ada.post("/v1/videos", &unknown)
            .await
            .expect_problem(422, "impossible_job");
    }
    assert_eq!(farm.number("select count(*) from job").await, 0);
    ada.post("/v1/videos", &good).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let send = async |content_type: &'static str, body: String| {
        let request = ada.request(Method::POST, "/v1/videos");
        Answer::of(request.header("content-type", content_type).body(body)).await
    };
    let good = wish(&ada.picture().await);
    let large = format!("{{\"prompt\":\"{}\"}}", "p".repeat(2 << 20));
    for (kind, body, status, code) in [
        ("application/json", large, 413, "body_too_large"),
        ("application/json", "{".to_owned(), 400, "malformed_json"),
        (
            "application/json",
            format!("{good} {{}}"),
            400,
            "malformed_json",
        ),
        (
            "application/json",
            "[".repeat(100_000),
            400,
            "malformed_json",
        ),
        (
            "application/json",
            "{\"frames\": NaN}".to_owned(),
            400,
            "malformed_json",
        ),
        (
            "application/json",
            format!("[{}]", good["image"]),
            422,
            "validation_failed",
        ),
        ("application/json", "7".to_owned(), 422, "validation_failed"),
        ("text/plain", "{}".to_owned(), 415, "media_type_refused"),
        (
            "application/x-www-form-urlencoded",
            "frames=2".to_owned(),
            415,
            "media_type_refused",
        ),
        ("application/json", String::new(), 422, "validation_failed"),
    ] {
        send(kind, body).await.expect_problem(status, code);
    }
    let form = Answer::of(ada.request(Method::POST, "/v1/uploads").json(&json!({}))).await;
    form.expect_problem(415, "media_type_refused");
    let form = reqwest::multipart::Form::new()
        .text("purpose", "image")
        .text("path", "/etc/passwd");
    let form = Answer::of(ada.request(Method::POST, "/v1/uploads").multipart(form)).await;
    assert_eq!(
        form.expect_problem(422, "validation_failed")["errors"][0]["pointer"],
        "?path"
    );
    let form = reqwest::multipart::Form::new().text("purpose", "virus");
    let form = Answer::of(ada.request(Method::POST, "/v1/uploads").multipart(form)).await;
    assert_eq!(
        form.expect_problem(422, "validation_failed")["errors"][0]["pointer"],
        "?purpose"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens() {
    let farm = Farm::start().await;
    let ada = farm.user("ada").await;
    let good = ada.token.clone().unwrap();
    let [head, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("{good}")
    };
    let decoded =
        |part: &str| -> Value { serde_json::from_slice(&BASE64URL.decode(part).unwrap()).unwrap() };
    let encoded = |value: &Value| BASE64URL.encode(value.to_string());
    let (header, claims_of_ada) = (decoded(head), decoded(claims));
    let kid = header["kid"].as_str().unwrap().to_owned();
    let own_key =
        EncodingKey::from_ed_der(&std::fs::read(farm.keys_dir.join(format!("{kid}.pk8"))).unwrap());
    let signed = |change: &dyn Fn(&mut Value), key: &EncodingKey, algorithm: Algorithm| {
        let mut claims = claims_of_ada.clone();
        change(&mut claims);
        let header = Header {
            kid: Some(kid.clone()),
            ..Header::new(algorithm)
        };
        jsonwebtoken::encode(&header, &claims, key).unwrap()
    };
    let with_header = |change: &dyn Fn(&mut Value)| {
        let mut header = header.clone();
        change(&mut header);
        format!("{}.{claims}.{signature}", encoded(&header))
    };
    let back = |claims: &mut Value, seconds: i64| {
        for name in ["exp", "iat", "nbf"] {
            claims[name] = (claims[name].as_i64().unwrap() - seconds).into();
        }
    };
    let secret = EncodingKey::from_secret(b"secret");
    let other_user = farm.user("bob").await;
    let [_, claims_of_bob, _] = other_user
        .token
        .as_deref()
        .unwrap()
        .split('.')
        .collect::<Vec<_>>()[..]
    else {
        panic!()
    };
    let invalid = [
        String::new(),
        "x".to_owned(),
        "flk_".to_owned(),
        format!("flk_{}", "A".repeat(43)),
        good.replace('.', ""),
        format!("{head}.{claims}."),
        format!("{head}.{claims_of_bob}.{signature}"),
        format!("{good}A"),
        "A".repeat(100_000 / 16),
        with_header(&|header| header["alg"] = "none".into()),
        with_header(&|header| header["alg"] = "HS256".into()),
        with_header(&|header| header["kid"] = "../../access-1".into()),
        with_header(&|header| header["kid"] = "' or 1=1 --".into()),
        signed(&|_| (), &secret, Algorithm::HS256),
        signed(
            &|claims| claims["aud"] = "another".into(),
            &own_key,
            Algorithm::EdDSA,
        ),
        signed(
            &|claims| claims["iss"] = "another".into(),
            &own_key,
            Algorithm::EdDSA,
        ),
        signed(
            &|claims| claims["exp"] = "9999999999".into(),
            &own_key,
            Algorithm::EdDSA,
        ),
        signed(
            &|claims| claims["exp"] = 9_999_999_999_i64.into(),
            &own_key,
            Algorithm::EdDSA,
        ),
        signed(&|claims| back(claims, -3_600), &own_key, Algorithm::EdDSA),
        signed(
            &|claims| claims["role"] = "admin".into(),
            &own_key,
            Algorithm::EdDSA,
        ),
        signed(
            &|claims| claims["sid"] = claims["jti"].clone(),
            &own_key,
            Algorithm::EdDSA,
        ),
    ];
    let with = |token: &str| Caller::new(farm.url.clone(), Some(token));
    for token in invalid {
        let answer = with(&token).get("/v1/me").await;
        assert_eq!(answer.status, 401, "{token}: {answer:?}");
        let code = answer.json()["code"].clone();
        assert!(
            code == "token_invalid" || (token.is_empty() && code == "token_missing"),
            "{token}: {code}"
        );
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
    }
    // The way in which they were signed is right.
    with(&signed(&|_| (), &own_key, Algorithm::EdDSA))
        .get("/v1/me")
        .await
        .expect(200);
    let expired = signed(&|claims| back(claims, 3_600), &own_key, Algorithm::EdDSA);
    with(&expired)
        .get("/v1/me")
        .await
        .expect_problem(401, "token_expired");
    farm.stranger()
        .get("/v1/me")
        .await
        .expect_problem(401, "token_missing");
    // Somebody's id in the subject of one's own sign-in.
    let bob = other_user.get("/v1/me").await.json()["id"].clone();
    let mixed = signed(
        &|claims| claims["sub"] = bob.clone(),
        &own_key,
        Algorithm::EdDSA,
    );
    assert_eq!(
        with(&mixed).get("/v1/videos").await.expect(200).json()["data"],
        json!([])
    );
}
