//! What the bytes of a file really are.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use flowai_actors::ids::Sha256;
use sha2::Digest as _;

use crate::pulse::Pulse;

const PIECE_BYTES: usize = 1 << 20;

/// Reads the whole file, beside the async work. The pulse beats meanwhile.
pub(super) async fn hash(path: &Path, pulse: &Pulse) -> io::Result<Sha256> {
    let (path, pulse) = (path.to_owned(), pulse.clone());
    let hashing = tokio::task::spawn_blocking(move || hash_now(&path, &pulse));
    hashing.await.map_err(io::Error::other)?
}

fn hash_now(path: &Path, pulse: &Pulse) -> io::Result<Sha256> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut hasher = sha2::Sha256::new();
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Sha256::from_bytes(hasher.finalize().into())),
            bytes => hasher.update(&piece[..bytes]),
        }
        pulse.beat();
    }
}
