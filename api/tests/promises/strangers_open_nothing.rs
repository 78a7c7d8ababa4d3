//! Goal: the program does not start with weak keys or secrets, on an address that others reach, or with rights over all tenants'
//! rows (INV-12), and says which setting is to blame.
//! Method: the real program against real parts, one setting wrong at a time.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::farm::{Program, start_parts};

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_with_nothing_that_is_open_or_weak() {
    let folder = tempfile::tempdir().unwrap();
    let parts = start_parts(folder.path()).await;
    let program = Program::new(&parts, folder.path());
    let keys = folder.path().join("weak-keys");
    let with_media_key = |bytes: &[u8], mode: u32| {
        fs::create_dir_all(&keys).unwrap();
        let file = keys.join("media.key");
        fs::write(&file, bytes).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        keys.to_str().unwrap().to_owned()
    };
    let owner = parts.database().owner.clone();
    let cases: Vec<(&str, String, i32, &str)> = vec![
        (
            "FLOWAI_LISTEN",
            "0.0.0.0:0".to_owned(),
            2,
            "can be reached by others",
        ),
        (
            "FLOWAI_LISTEN",
            "[::]:0".to_owned(),
            2,
            "can be reached by others",
        ),
        (
            "FLOWAI_METRICS_LISTEN",
            "0.0.0.0:0".to_owned(),
            2,
            "can be reached by others",
        ),
        (
            "S3_SECRET_ACCESS_KEY",
            "minioadmin".to_owned(),
            2,
            "shorter than 32 bytes",
        ),
        ("S3_SECRET_ACCESS_KEY", String::new(), 2, "is missing"),
        ("DATABASE_URL", String::new(), 2, "is missing"),
        ("FLOWAI_COORDINATORS", String::new(), 2, "is missing"),
        ("DATABASE_URL", owner, 1, "bypasses row level security"),
        (
            "FLOWAI_ID",
            "another".to_owned(),
            1,
            "the certificate in FLOWAI_TLS_DIR is that of",
        ),
        (
            "FLOWAI_TLS_DIR",
            folder.path().join("none").to_str().unwrap().to_owned(),
            1,
            "FLOWAI_TLS_DIR",
        ),
    ];
    for (name, value, status, words) in cases {
        program.refuses(name, &value, status, words).await;
    }
    for (bytes, mode, words) in [
        (&[0_u8; 32][..], 0o600, "is too weak"),
        (&b"secret"[..], 0o600, "is too weak"),
        (&b""[..], 0o600, "is too weak"),
        (
            &rand::random::<[u8; 32]>()[..],
            0o644,
            "can be read by others",
        ),
    ] {
        let keys = with_media_key(bytes, mode);
        program.refuses("FLOWAI_KEYS_DIR", &keys, 1, words).await;
    }
    // With nothing wrong it starts.
    program.start().await.end().await;
}
