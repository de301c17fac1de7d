//! The database file, which only its owner may read.

use std::{io, path::Path};

/// Creates an empty file that only its owner may read and write, if there is none yet. SQLite gives
/// its other files the mode of this one.
#[cfg(unix)]
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    use std::{
        fs::OpenOptions,
        os::unix::fs::OpenOptionsExt as _,
        sync::{Mutex, PoisonError},
    };

    /// Guards nothing but the time in which a new file is open: closing it would release the locks
    /// that SQLite holds on it elsewhere in this process.
    static CREATING: Mutex<()> = Mutex::new(());

    // SQLite reads a URI, and takes the empty name for a temporary database.
    if path.as_os_str().is_empty() || path.to_string_lossy().starts_with("file:") {
        return Ok(());
    }
    let _creating = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match created {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Does nothing: who may read a new file is the folder's matter here.
#[cfg(not(unix))]
pub(super) fn create_private(_path: &Path) -> io::Result<()> {
    Ok(())
}
