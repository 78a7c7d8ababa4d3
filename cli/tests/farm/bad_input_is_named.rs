//! Goal: whatever is wrong with what somebody sends, the command names it, ends with the documented status, and nothing is
//! lost: a good job is rendered afterwards.

use std::path::Path;
use std::time::Duration;

use crate::support::{Flowai, PICTURE, TestFarm, User, probe};

struct Case<'a> {
    farm: &'a TestFarm,
    user: &'a User,
    folder: &'a Path,
}

impl Case<'_> {
    /// The command with these arguments ends with `status` and says these words.
    async fn check(&self, args: &[&str], status: i32, words: &[&str]) {
        let run = Flowai::run(self.farm, self.user, self.folder, args).await;
        run.assert_refused(status, words);
    }
}

/// A safetensors file whose header announces `header_bytes` and holds `header`.
fn safetensors(header_bytes: u64, header: &str, data: &[u8]) -> Vec<u8> {
    [&header_bytes.to_le_bytes(), header.as_bytes(), data].concat()
}

/// A PNG that says it is so large, and nothing more.
fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut png = PICTURE.to_vec();
    // Width and height follow signature, length and type of the first chunk; its checksum follows five more bytes.
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32fast::hash(&png[12..29]);
    png[29..33].copy_from_slice(&checksum.to_be_bytes());
    png
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named() {
    let farm = TestFarm::stand_in(Duration::from_millis(5), |_| ()).await;
    let (user, other) = (farm.user().await, farm.user().await);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("cat.png", PICTURE);
    write("words.png", b"these are words");
    write("huge.png", &png_of(60_000, 60_000));
    write("empty.png", &png_of(0, 0));
    write("cut.png", &PICTURE[..PICTURE.len() / 2]);
    write("pickle.safetensors", b"\x80\x02}q\x00.");
    write("long.safetensors", &safetensors(90 << 20, "{}", &[]));
    let overlap = r#"{"unet.a.lora_A.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"unet.a.lora_B.weight":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    write(
        "overlap.safetensors",
        &safetensors(overlap.len() as u64, overlap, &[0; 12]),
    );
    let stranger = r#"{"unet.nowhere.lora_A.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},"unet.nowhere.lora_B.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}}"#;
    write(
        "stranger.safetensors",
        &safetensors(stranger.len() as u64, stranger, &[0; 8]),
    );
    let case = Case {
        farm: &farm,
        user: &user,
        folder: folder.path(),
    };

    for picture in ["words.png", "huge.png", "empty.png", "cut.png"] {
        case.check(&["render", picture], 2, &["file", "file_refused"])
            .await;
    }
    case.check(&["render", "missing.png"], 2, &["missing.png"])
        .await;
    for (field, value) in [
        ("frames", "0"),
        ("frames", "9999"),
        ("steps", "0"),
        ("fps", "0"),
        ("width", "8"),
        ("height", "63"),
        ("motion", "256"),
        ("seed", "18446744073709551615"),
    ] {
        let named = if field == "motion" {
            "motion_bucket_id"
        } else {
            field
        };
        let flag = format!("--{field}");
        case.check(&["render", "cat.png", &flag, value], 2, &[named])
            .await;
    }
    case.check(&["render", "cat.png", "--model", "sora"], 2, &["sora"])
        .await;
    for adapter in ["pickle", "long", "overlap", "stranger"] {
        let adapter = format!("{adapter}.safetensors");
        case.check(&["render", "cat.png", "--adapter", &adapter], 2, &["("])
            .await;
    }
    let nobodys = uuid::Uuid::now_v7().to_string();
    case.check(
        &["render", "cat.png", "--adapter", &nobodys],
        4,
        &["adapter"],
    )
    .await;
    case.check(
        &["render", "cat.png", "--adapter", "no such"],
        2,
        &["no such"],
    )
    .await;
    case.check(&["render", "cat.png", "--adapter", "a=b"], 2, &["weight"])
        .await;

    let others = other.submit(1).await;
    for verb in ["watch", "cancel"] {
        case.check(&[verb, &others], 4, &["not_found"]).await;
        case.check(&[verb, &nobodys], 4, &["not_found"]).await;
        case.check(&[verb, "7"], 2, &["UUID"]).await;
    }
    case.check(&["nodes"], 3, &["operator"]).await;
    let nowhere = ["jobs", "--url", "http://127.0.0.1:9"];
    case.check(&nowhere, 7, &["cannot be reached", "FLOWAI_URL"])
        .await;
    let mut forged = Flowai::command(folder.path());
    forged
        .env("FLOWAI_URL", farm.url().as_str())
        .env("FLOWAI_API_KEY", "flk_forged")
        .arg("jobs");
    Flowai::finish(forged)
        .await
        .assert_refused(3, &["token_invalid"]);

    // Nothing was lost by all that.
    let good = [
        "render", "cat.png", "--frames", "3", "--steps", "2", "--width", "64", "--height", "48",
        "--json",
    ];
    let run = Flowai::run(&farm, &user, folder.path(), &good).await;
    assert_eq!(run.status, Some(0), "{run:?}");
    let objects = run.objects();
    let saved = objects.last().unwrap();
    assert_eq!(
        (saved["event"].as_str(), saved["path"].as_str()),
        (Some("saved"), Some("cat.mp4"))
    );
    assert_eq!(probe(&folder.path().join("cat.mp4")).frames, "3");
    let again = Flowai::run(&farm, &user, folder.path(), &good).await;
    again.assert_refused(2, &["cat.mp4 is there already"]);
    farm.stop().await;
}
