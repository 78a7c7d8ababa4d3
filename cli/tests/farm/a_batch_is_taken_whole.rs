//! Goal: a batch is taken whole or not at all, every clip of it comes under its own name, and one that brings none is told without
//! ending the others.
//! Method: the real command against a real farm with the stand-in engine.

use std::path::Path;
use std::time::Duration;

use flowai::client::Status;

use crate::support::{Flowai, PICTURE, TestFarm, probe, within};

const SMALL: [&str; 6] = ["--frames", "4", "--width", "64", "--height", "48"];

/// A folder with two pictures.
fn pictures() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.png"] {
        std::fs::write(folder.path().join(name), PICTURE).unwrap();
    }
    folder
}

fn args<'a>(first: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [first, &SMALL, rest].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_clip_of_a_batch_comes_under_its_own_name() {
    let farm = TestFarm::stand_in(Duration::from_millis(10), |_| ()).await;
    let user = farm.user().await;
    let folder = pictures();
    let run = async |args: &[&str]| Flowai::run(&farm, &user, folder.path(), args).await;

    let batch = args(
        &["batch", "a.png", "b.png", "--seeds", "1,2"],
        &["--out", "clips"],
    );
    let done = run(&batch).await;
    assert_eq!(done.status, Some(0), "{done:?}");
    let clips = ["a-1.mp4", "a-2.mp4", "b-1.mp4", "b-2.mp4"].map(|name| format!("clips/{name}"));
    assert_eq!(done.stdout.lines().collect::<Vec<_>>(), clips);
    for clip in &clips {
        assert_eq!(probe(&folder.path().join(clip)).frames, "4", "{clip}");
    }
    let jobs = user.client.videos(10, None).await.unwrap();
    let seeds: Vec<u64> = jobs.iter().rev().map(|job| job.spec.seed).collect();
    assert_eq!(seeds, [1, 2, 1, 2]);
    for job in &jobs {
        let class: String = farm
            .one("select class from job where id = $1::uuid", &job.id)
            .await;
        assert_eq!(class, "batch");
    }
    run(&batch).await.assert_refused(2, &["a-1.mp4", "--force"]);

    // Free users have up to five waiting jobs.
    let too_many = args(&["batch", "a.png", "--seeds", "1,2,3,4,5,6"], &["--detach"]);
    let uploads = "select count(*) from upload where owner_id <> $1::uuid";
    let nobody = uuid::Uuid::nil().to_string();
    let before: i64 = farm.one(uploads, &nobody).await;
    run(&too_many).await.assert_refused(2, &["5", "got 6"]);
    let after: i64 = farm.one(uploads, &nobody).await;
    assert_eq!(after, before, "nothing is uploaded before that is known");
    let missing = args(&["batch", "a.png", "gone.png"], &["--out", "new"]);
    run(&missing).await.assert_refused(2, &["gone.png"]);
    assert!(!folder.path().join("new").exists());
    let wrong = args(&["batch", "a.png", "b.png"], &["--steps", "0", "--detach"]);
    run(&wrong)
        .await
        .assert_refused(2, &["videos.0.steps", "videos.1.steps"]);
    assert_eq!(user.client.videos(10, None).await.unwrap().len(), 4);
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_batch_that_brings_no_clip_ends_no_other() {
    let farm = TestFarm::stand_in(Duration::from_millis(200), |_| ()).await;
    let user = farm.user().await;
    let folder = pictures();
    let exists = |name: &str| Path::new(folder.path()).join(name).exists();

    let batch = args(&["batch", "a.png", "b.png"], &["--steps", "20"]);
    let second_is_cancelled = async {
        loop {
            let jobs = user.client.videos(10, None).await.unwrap();
            if let [second, first] = &jobs[..]
                && first.status == Status::Running
            {
                user.client.cancel(&second.id).await.unwrap();
                return second.id.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (ended, second) = tokio::join!(
        Flowai::run(&farm, &user, folder.path(), &batch),
        within("the second job is cancelled", second_is_cancelled)
    );
    ended.assert_refused(6, &["1 of 2", &second, "cancelled"]);
    assert!(exists("a.mp4") && !exists("b.mp4"));

    let late = args(
        &["batch", "a.png", "b.png", "--force"],
        &["--steps", "100", "--timeout", "1"],
    );
    let late = Flowai::run(&farm, &user, folder.path(), &late).await;
    late.assert_refused(8, &["goes on", "2 jobs", "flowai watch", "b.mp4"]);
    farm.stop().await;
}
