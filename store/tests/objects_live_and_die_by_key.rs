//! Goal: what is stored comes back as it was, what is missing is an answer, and a presigned URL allows one thing for a
//! short while.
//! Method: the client against the embedded S3 server; browsers and nodes are plain HTTP.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flowai_embedded::S3;
use flowai_store::objects::{
    ObjectHead, Objects, ObjectsConfig, ObjectsError, PRESIGNED_GET_TTL_MAX, PRESIGNED_PUT_TTL_MAX,
    Presigned, ResponseHeaders, UploadTerms,
};
use reqwest::StatusCode;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

const CLIP: &[u8] = b"not really a clip, but bytes";

struct Store {
    objects: Objects,
    config: ObjectsConfig,
    http: reqwest::Client,
    _server: S3,
    _folder: tempfile::TempDir,
}

impl Store {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = S3::start(folder.path()).await.unwrap();
        let access = server.access();
        let config = ObjectsConfig {
            endpoint: access.endpoint.clone(),
            region: access.region.clone(),
            bucket: access.bucket.clone(),
            access_key_id: access.access_key_id.clone(),
            secret_access_key: access.secret_access_key.clone(),
        };
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        Self {
            objects: Objects::new(&config),
            config,
            http,
            _server: server,
            _folder: folder,
        }
    }

    async fn put(&self, key: &str) {
        self.objects
            .put(key, Bytes::from_static(CLIP), "video/mp4")
            .await
            .unwrap();
    }

    async fn upload(&self, presigned: &Presigned, body: &'static [u8]) -> StatusCode {
        let mut request = self.http.put(&presigned.url).body(body);
        for (name, value) in &presigned.headers {
            request = request.header(name, value);
        }
        request.send().await.unwrap().status()
    }
}

fn terms(body: &[u8]) -> UploadTerms {
    UploadTerms {
        content_type: "video/mp4".to_owned(),
        length: body.len() as u64,
        sha256: Sha256::digest(body).into(),
    }
}

#[tokio::test]
async fn bytes_and_files_come_back_as_they_were() {
    let store = Store::start().await;
    store.put("clips/a").await;
    let object = store.objects.get("clips/a").await.unwrap();
    let head = ObjectHead {
        length: CLIP.len() as u64,
        content_type: Some("video/mp4".to_owned()),
    };
    assert_eq!(object.head, head);
    assert_eq!(object.into_bytes(1_000).await.unwrap(), CLIP);

    let mut file = tempfile::NamedTempFile::new().unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    file.write_all(&large).unwrap();
    store
        .objects
        .put_file("clips/b", file.path(), "image/webp")
        .await
        .unwrap();
    let mut read = Vec::new();
    store
        .objects
        .get("clips/b")
        .await
        .unwrap()
        .into_reader()
        .read_to_end(&mut read)
        .await
        .unwrap();
    assert!(
        read == large,
        "{} bytes came back of {}",
        read.len(),
        large.len()
    );

    store.objects.copy("clips/a", "clips/c").await.unwrap();
    assert_eq!(store.objects.head("clips/c").await.unwrap(), Some(head));
}

#[tokio::test]
async fn what_is_missing_is_an_answer() {
    let store = Store::start().await;
    assert!(
        matches!(store.objects.get("no").await, Err(ObjectsError::NotFound { key }) if key == "no")
    );
    assert_eq!(store.objects.head("no").await.unwrap(), None);
    assert!(matches!(
        store.objects.copy("no", "there").await,
        Err(ObjectsError::NotFound { .. })
    ));
    store.objects.delete("no").await.unwrap();
    assert_eq!(store.objects.delete_prefix("no/").await.unwrap(), 0);
    let missing = store
        .objects
        .put_file("a", "/does/not/exist".as_ref(), "video/mp4")
        .await;
    assert!(
        matches!(missing, Err(ObjectsError::File { .. })),
        "{missing:?}"
    );
}

#[tokio::test]
async fn an_object_over_the_limit_is_not_read() {
    let store = Store::start().await;
    store.put("large").await;
    let refused = store
        .objects
        .get("large")
        .await
        .unwrap()
        .into_bytes(CLIP.len() as u64 - 1)
        .await;
    assert!(
        matches!(refused, Err(ObjectsError::TooLarge { length, .. }) if length == CLIP.len() as u64)
    );
    assert_eq!(
        store
            .objects
            .get("large")
            .await
            .unwrap()
            .into_bytes(CLIP.len() as u64)
            .await
            .unwrap(),
        CLIP
    );
}

#[tokio::test]
async fn a_prefix_is_listed_in_pages_and_deleted_whole() {
    let store = Store::start().await;
    for key in ["jobs/1/a", "jobs/1/b", "jobs/1/c", "jobs/10/a", "jobs/2/a"] {
        store.put(key).await;
    }
    let keys = async |prefix, after, limit| -> Vec<String> {
        let entries = store.objects.list(prefix, after, limit).await.unwrap();
        entries.into_iter().map(|entry| entry.key).collect()
    };
    assert_eq!(keys("jobs/1/", None, 2).await, ["jobs/1/a", "jobs/1/b"]);
    assert_eq!(keys("jobs/1/", Some("jobs/1/b"), 2).await, ["jobs/1/c"]);

    assert_eq!(store.objects.delete_prefix("jobs/1/").await.unwrap(), 3);
    assert_eq!(keys("jobs/", None, 1_000).await, ["jobs/10/a", "jobs/2/a"]);
}

#[tokio::test]
async fn a_presigned_get_reads_one_object() {
    let store = Store::start().await;
    store.put("clips/mine").await;
    store.put("clips/other").await;
    let headers = ResponseHeaders {
        content_type: Some("video/mp4".to_owned()),
        content_disposition: Some("attachment; filename=\"clip.mp4\"".to_owned()),
    };
    let presigned = store
        .objects
        .presign_get("clips/mine", PRESIGNED_GET_TTL_MAX, headers)
        .await
        .unwrap();

    let answer = store
        .http
        .get(&presigned.url)
        .header("range", "bytes=4-9")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(
        answer.headers()["content-disposition"],
        "attachment; filename=\"clip.mp4\""
    );
    assert_eq!(answer.bytes().await.unwrap(), &CLIP[4..10]);

    let other = presigned.url.replace("clips/mine", "clips/other");
    assert_eq!(
        store.http.get(other).send().await.unwrap().status(),
        StatusCode::FORBIDDEN
    );
    let delete = store.http.delete(&presigned.url).send().await.unwrap();
    assert_eq!(delete.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_presigned_put_takes_the_promised_bytes_once() {
    let store = Store::start().await;
    let presigned = store
        .objects
        .presign_put("uploads/a", PRESIGNED_PUT_TTL_MAX, &terms(CLIP))
        .await
        .unwrap();

    assert_eq!(
        store.upload(&presigned, &CLIP[1..]).await,
        StatusCode::FORBIDDEN,
        "shorter"
    );
    let other: &'static [u8] = b"NOT really a clip, but bytes";
    assert_eq!(other.len(), CLIP.len());
    assert_eq!(
        store.upload(&presigned, other).await,
        StatusCode::BAD_REQUEST,
        "other bytes"
    );
    assert_eq!(store.objects.head("uploads/a").await.unwrap(), None);

    assert_eq!(store.upload(&presigned, CLIP).await, StatusCode::OK);
    assert_eq!(
        store.upload(&presigned, CLIP).await,
        StatusCode::PRECONDITION_FAILED,
        "twice"
    );
    let head = store.objects.head("uploads/a").await.unwrap().unwrap();
    assert_eq!(head.content_type.as_deref(), Some("video/mp4"));
}

#[tokio::test]
async fn no_presigned_url_lives_longer_than_allowed() {
    let store = Store::start().await;
    let second = Duration::from_secs(1);
    let get = store
        .objects
        .presign_get(
            "a",
            PRESIGNED_GET_TTL_MAX + second,
            ResponseHeaders::default(),
        )
        .await;
    assert!(matches!(get, Err(ObjectsError::Ttl { .. })), "{get:?}");
    let put = store
        .objects
        .presign_put("a", PRESIGNED_PUT_TTL_MAX + second, &terms(CLIP))
        .await;
    assert!(matches!(put, Err(ObjectsError::Ttl { .. })), "{put:?}");
}

#[tokio::test]
async fn wrong_credentials_are_found_at_start() {
    let store = Store::start().await;
    store.objects.check().await.unwrap();
    let forger = Objects::new(&ObjectsConfig {
        secret_access_key: "0".repeat(64),
        ..store.config.clone()
    });
    assert!(matches!(
        forger.check().await,
        Err(ObjectsError::Unavailable { .. })
    ));
    let lost = Objects::new(&ObjectsConfig {
        bucket: "elsewhere".to_owned(),
        ..store.config.clone()
    });
    assert!(matches!(
        lost.check().await,
        Err(ObjectsError::NotFound { .. })
    ));
}

#[tokio::test]
async fn neither_credentials_nor_urls_show_in_debug_output() {
    let store = Store::start().await;
    let presigned = store
        .objects
        .presign_get("a", Duration::from_secs(9), ResponseHeaders::default())
        .await
        .unwrap();
    let shown = format!("{:?} {presigned:?} {:?}", store.config, store.objects);
    assert!(!shown.contains(&store.config.secret_access_key), "{shown}");
    assert!(!shown.contains("X-Amz-Signature"), "{shown}");
}
