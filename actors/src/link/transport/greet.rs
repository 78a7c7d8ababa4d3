//! Greetings on the wire: a length of two bytes, then one message.

use std::io;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits::{LINK_GREETING_BYTES_MAX, LINK_GREETING_MS};

/// Why a greeting did not arrive.
#[derive(Debug, thiserror::Error)]
pub(in crate::link) enum GreetError {
    #[error("greeting took longer than {LINK_GREETING_MS} ms")]
    Late,
    #[error("greeting must be at most {LINK_GREETING_BYTES_MAX} bytes (got {0})")]
    TooLong(usize),
    #[error("greeting is malformed: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("connection broke in the greeting: {0}")]
    Broken(#[from] io::Error),
}

/// Reads one greeting message within the greeting's deadline.
pub(in crate::link) async fn read_greeting<M: Message + Default>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<M, GreetError> {
    in_time(async {
        let length = usize::from(stream.read_u16().await?);
        if length > LINK_GREETING_BYTES_MAX {
            return Err(GreetError::TooLong(length));
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await?;
        Ok(M::decode(bytes.as_slice())?)
    })
    .await
}

/// Writes one greeting message within the greeting's deadline.
pub(in crate::link) async fn write_greeting(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Message,
) -> Result<(), GreetError> {
    let bytes = message.encode_to_vec();
    let length = u16::try_from(bytes.len()).map_err(|_| GreetError::TooLong(bytes.len()))?;
    if bytes.len() > LINK_GREETING_BYTES_MAX {
        return Err(GreetError::TooLong(bytes.len()));
    }
    in_time(async {
        stream.write_u16(length).await?;
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        Ok(())
    })
    .await
}

async fn in_time<T>(step: impl Future<Output = Result<T, GreetError>>) -> Result<T, GreetError> {
    tokio::time::timeout(Duration::from_millis(LINK_GREETING_MS), step)
        .await
        .unwrap_or(Err(GreetError::Late))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Generation;
    use crate::link::greeting::{Hello, SchemaRange};

    #[tokio::test]
    async fn a_greeting_arrives_as_it_was_said() {
        let hello = Hello::new(
            &"n1.node".parse().unwrap(),
            Generation::new(3),
            "build",
            &SchemaRange::of(2),
        );
        let (mut one, mut other) = tokio::io::duplex(64);
        let (written, read) = tokio::join!(
            write_greeting(&mut one, &hello),
            read_greeting::<Hello>(&mut other)
        );
        written.unwrap();
        assert_eq!(read.unwrap(), hello);
    }

    #[tokio::test]
    async fn long_greetings_are_refused_before_they_are_read() {
        let (mut one, mut other) = tokio::io::duplex(64);
        one.write_u16(LINK_GREETING_BYTES_MAX as u16 + 1)
            .await
            .unwrap();
        assert!(matches!(
            read_greeting::<Hello>(&mut other).await,
            Err(GreetError::TooLong(4097))
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_not_waited_for() {
        let (_one, mut other) = tokio::io::duplex(64);
        assert!(matches!(
            read_greeting::<Hello>(&mut other).await,
            Err(GreetError::Late)
        ));
    }

    #[tokio::test]
    async fn noise_is_malformed() {
        let (mut one, mut other) = tokio::io::duplex(64);
        one.write_all(&[0, 3, 0xff, 0xff, 0xff]).await.unwrap();
        assert!(matches!(
            read_greeting::<Hello>(&mut other).await,
            Err(GreetError::Malformed(_))
        ));
    }
}
