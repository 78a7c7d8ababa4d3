//! A stream that does not wait for ever and can be cut from outside.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::limits::LINK_SILENCE_MS;
use crate::link::port::DownReason;
use crate::link::stats::Counters;

const SILENCE: Duration = Duration::from_millis(LINK_SILENCE_MS);

/// Cuts a [`GuardedStream`] from outside, at once and in both directions. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::link) struct KillSwitch {
    tripped: CancellationToken,
    reason: Arc<OnceLock<DownReason>>,
}

impl KillSwitch {
    /// Cuts the stream. The first reason stays.
    pub(in crate::link) fn trip(&self, reason: DownReason) {
        self.reason.get_or_init(|| reason);
        self.tripped.cancel();
    }

    pub(in crate::link) fn is_tripped(&self) -> bool {
        self.tripped.is_cancelled()
    }

    /// Why the stream ended: what tripped it, else that the other side closed it.
    pub(in crate::link) fn reason(&self) -> DownReason {
        self.reason.get().copied().unwrap_or(DownReason::Closed)
    }
}

/// A stream that errors when nothing was read for 8 s, when a write is blocked for 8 s, and when its kill switch is
/// tripped. Counts the bytes that pass.
pub(in crate::link) struct GuardedStream<S> {
    inner: S,
    kill: KillSwitch,
    counters: Arc<Counters>,
    reading: Watch,
    writing: Watch,
    /// Armed at the first write that blocks, disarmed by progress: a link may have nothing to say.
    write_blocked: bool,
}

/// What a direction waits for beside its bytes. Each direction has its own: a future wakes one task only.
struct Watch {
    deadline: Pin<Box<Sleep>>,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Watch {
    fn new(kill: &KillSwitch) -> Self {
        Self {
            deadline: Box::pin(tokio::time::sleep(SILENCE)),
            killed: Box::pin(kill.tripped.clone().cancelled_owned()),
        }
    }

    fn rewind(&mut self) {
        self.deadline.as_mut().reset(Instant::now() + SILENCE);
    }

    /// Ready with the error once the kill switch is tripped or the deadline has passed.
    fn poll_end(&mut self, kill: &KillSwitch, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.killed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(cut());
        }
        self.deadline.as_mut().poll(cx).map(|()| {
            kill.trip(DownReason::Silent);
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("link was silent for {LINK_SILENCE_MS} ms"),
            )
        })
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "link was cut")
}

impl<S> GuardedStream<S> {
    /// Guards `inner` from now on; call it within a tokio runtime.
    pub(in crate::link) fn new(inner: S, kill: KillSwitch, counters: Arc<Counters>) -> Self {
        Self {
            inner,
            reading: Watch::new(&kill),
            writing: Watch::new(&kill),
            kill,
            counters,
            write_blocked: false,
        }
    }

    /// Watches a write that returned `polled`.
    fn guard_write<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.write_blocked = false;
            return polled;
        }
        if !self.write_blocked {
            self.write_blocked = true;
            self.writing.rewind();
        }
        self.writing.poll_end(&self.kill, cx).map(Err)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.kill.is_tripped() {
            return Poll::Ready(Err(cut()));
        }
        // The reader before the deadline: what came in while this process was frozen is not silence.
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(cx, buf) {
            this.counters
                .bytes_read
                .add((buf.filled().len() - before) as u64);
            this.reading.rewind();
            return Poll::Ready(read);
        }
        this.reading.poll_end(&this.kill, cx).map(Err)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.kill.is_tripped() {
            return Poll::Ready(Err(cut()));
        }
        let polled = Pin::new(&mut this.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            this.counters.bytes_written.add(*written as u64);
        }
        this.guard_write(polled, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.kill.is_tripped() {
            return Poll::Ready(Err(cut()));
        }
        let polled = Pin::new(&mut this.inner).poll_flush(cx);
        this.guard_write(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.guard_write(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    fn guarded(
        buffer: usize,
    ) -> (
        GuardedStream<DuplexStream>,
        DuplexStream,
        KillSwitch,
        Arc<Counters>,
    ) {
        let (near, far) = tokio::io::duplex(buffer);
        let (kill, counters) = (KillSwitch::default(), Arc::new(Counters::default()));
        (
            GuardedStream::new(near, kill.clone(), counters.clone()),
            far,
            kill,
            counters,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_an_error_after_eight_seconds_and_not_before() {
        let (mut near, mut far, kill, counters) = guarded(64);
        let start = Instant::now();
        let reads = async {
            let mut byte = [0];
            for _ in 0..3 {
                near.read_exact(&mut byte).await.unwrap();
            }
            near.read_exact(&mut byte).await.unwrap_err()
        };
        let writes = async {
            for _ in 0..3 {
                tokio::time::sleep(SILENCE - Duration::from_millis(10)).await;
                far.write_all(&[1]).await.unwrap();
            }
        };
        let (error, ()) = tokio::join!(reads, writes);
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(kill.reason(), DownReason::Silent);
        assert!(start.elapsed() >= 4 * SILENCE - Duration::from_millis(30));
        assert_eq!(counters.snapshot().bytes_read, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrived_during_a_freeze_is_not_silence() {
        let (mut near, mut far, kill, _) = guarded(64);
        let mut byte = [0];
        far.write_all(&[1, 2]).await.unwrap();
        near.read_exact(&mut byte).await.unwrap();
        tokio::time::advance(10 * SILENCE).await;
        near.read_exact(&mut byte).await.unwrap();
        assert!(!kill.is_tripped());
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_blocked_write_runs_out_of_time() {
        let (mut near, mut far, kill, counters) = guarded(4);
        near.write_all(&[0; 4]).await.unwrap();
        tokio::time::advance(10 * SILENCE).await;
        far.read_exact(&mut [0; 4]).await.unwrap();
        near.write_all(&[0; 4]).await.unwrap();
        assert!(!kill.is_tripped());
        assert_eq!(
            near.write_all(&[0; 4]).await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        assert_eq!(counters.snapshot().bytes_written, 8);
    }

    #[tokio::test]
    async fn the_kill_switch_wakes_both_directions() {
        let (near, _far, kill, _) = guarded(4);
        let (mut reader, mut writer) = tokio::io::split(near);
        let read = tokio::spawn(async move { reader.read_u8().await.map(|_| ()) });
        let write = tokio::spawn(async move { writer.write_all(&[0; 64]).await });
        tokio::task::yield_now().await;
        kill.trip(DownReason::Displaced);
        kill.trip(DownReason::Silent);
        for ended in [read.await.unwrap(), write.await.unwrap()] {
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        }
        assert_eq!(kill.reason(), DownReason::Displaced);
    }
}
