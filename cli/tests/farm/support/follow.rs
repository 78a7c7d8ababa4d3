use flowai::client::{Progress, Status, Update, Video, Watch};

use super::within;

/// A job being watched, with all that was said about it.
pub(crate) struct Follow<'a> {
    watch: Watch<'a>,
    seen: Seen,
}

/// What was said about a job so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) statuses: Vec<Status>,
    pub(crate) progress: Vec<Progress>,
    pub(crate) reconnects: usize,
}

impl<'a> Follow<'a> {
    pub(super) fn new(watch: Watch<'a>) -> Self {
        Self {
            watch,
            seen: Seen::default(),
        }
    }

    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Waits until the job is in the middle of denoising: some steps are done and some are left.
    pub(crate) async fn until_denoising(&mut self) -> Progress {
        let denoising = async {
            loop {
                if let Update::Progress(progress) = self.next().await
                    && progress.phase == "denoising"
                    && (1..progress.steps).contains(&progress.step)
                {
                    return progress;
                }
            }
        };
        within("the job denoises", denoising).await
    }

    /// Waits until the job says that it runs this attempt.
    pub(crate) async fn until_attempt(&mut self, attempt: u32) {
        let running = async {
            loop {
                if let Update::Video(video) = self.next().await
                    && video.status == Status::Running
                    && video.attempt == attempt
                {
                    return;
                }
            }
        };
        within("the attempt runs", running).await;
    }

    /// Waits for the job's end.
    pub(crate) async fn until_end(&mut self) -> Box<Video> {
        let end = async {
            loop {
                if let Update::Video(video) = self.next().await
                    && video.status.is_end()
                {
                    return video;
                }
            }
        };
        within("the job ends", end).await
    }

    /// Waits for the job's end, which must be a clip.
    pub(crate) async fn until_done(&mut self) -> Box<Video> {
        let video = self.until_end().await;
        assert_eq!(video.status, Status::Done, "{:?}", video.error);
        video
    }

    async fn next(&mut self) -> Update {
        let update = self.watch.next().await.unwrap();
        let update = update.expect("the job has ended before what was waited for");
        match &update {
            Update::Video(video) => self.seen.statuses.push(video.status),
            Update::Progress(progress) => self.seen.progress.push(progress.clone()),
            Update::Reconnecting => self.seen.reconnects += 1,
            Update::Position(_) => {}
        }
        update
    }
}
