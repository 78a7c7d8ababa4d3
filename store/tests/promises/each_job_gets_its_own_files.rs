//! Goal: what is looked up for many jobs at once is what each of them was submitted with, and one that cannot be read keeps no other
//! back.

use flowai_actors::ids::{AdapterId, JobId, Sha256, UploadId};
use flowai_actors::spec::{AdapterUse, FirstFrame, RenderSpec};
use flowai_store::sources::{self, FirstFrameFiles, SourcesError};
use flowai_store::videos::NewVideo;

use crate::farm::{Farm, spec, spec_of_words};

const IMAGE: Sha256 = Sha256::from_bytes([1; 32]);
const STYLE: Sha256 = Sha256::from_bytes([5; 32]);

#[tokio::test]
async fn each_job_gets_its_own_files() {
    let mut farm = Farm::start().await;
    let (image, adapter) = (UploadId::generate(), AdapterId::generate());
    let user = farm.user;
    farm.run(&format!(
        "insert into upload (id, owner_id, purpose, sha256, bytes, content_type, width, height, object_key)
         values ('{image}', '{user}', 'image', '\\x{IMAGE}', 1, 'image/png', 8, 8, 'picture')"
    ))
    .await;
    farm.run(&format!(
        "insert into adapter (id, owner_id, name, sha256, bytes, family, report, object_key)
         values ('{adapter}', '{user}', 'a', '\\x{STYLE}', 1, 'svd', '{{}}', 'style')"
    ))
    .await;
    let plain = spec();
    assert_eq!(plain.first_frame, FirstFrame::Image(IMAGE));
    let styled = RenderSpec {
        adapters: vec![AdapterUse {
            sha256: STYLE,
            weight: 1.0,
        }],
        ..spec()
    };
    let of_style = NewVideo {
        adapters: &[adapter],
        ..NewVideo::new(user, &styled, Some(image))
    };
    let with_style = farm.submit(&of_style).await;
    let without = farm.submit(&NewVideo::new(user, &plain, Some(image))).await;
    let of_words = farm.queue_words().await;
    // Its row names a picture that is not there.
    let broken = farm.queue().await;

    let jobs = [with_style, JobId::generate(), without, of_words, broken];
    let mut found = sources::of_jobs(&farm.database, &jobs).await.unwrap();
    assert_eq!(found.len(), 4);
    let mut of = |job| found.remove(&job).unwrap();
    let keys = |files: &[sources::StoredFile]| -> Vec<String> {
        files.iter().map(|file| file.key.clone()).collect()
    };
    let styled = of(with_style).unwrap();
    assert_eq!(keys(&styled.adapters), ["style"]);
    let plain = of(without).unwrap();
    assert!(plain.adapters.is_empty());
    assert!(matches!(plain.first_frame, FirstFrameFiles::Image(file) if file.key == "picture"));
    assert_eq!(of(of_words).unwrap().spec, spec_of_words());
    assert!(matches!(of(broken), Err(SourcesError::Image(IMAGE))));
}
