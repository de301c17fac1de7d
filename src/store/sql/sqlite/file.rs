//! The database file, and who may read it.

use std::{io, path::Path};

use crate::store::error::StoreError;

/// Bits that a mode must have: the service reads and writes its file.
const REQUIRED_BITS: u32 = 0o600;

/// Bits that a mode may have.
const ALLOWED_BITS: u32 = 0o777;

/// Refuses a mode that SQLite could not work with.
pub(super) fn check_mode(mode: u32) -> Result<(), StoreError> {
    if mode & REQUIRED_BITS == REQUIRED_BITS && mode | ALLOWED_BITS == ALLOWED_BITS {
        return Ok(());
    }
    Err(StoreError::unavailable(format!(
        "{mode:#o} is not a mode for the database file: give `SqliteStoreBuilder::file_mode` one from \
         {REQUIRED_BITS:#o} to {ALLOWED_BITS:#o}, in octal, by which its owner may read and write it"
    )))
}

/// Creates an empty file with this mode, if there is none yet. SQLite gives its other files the mode of
/// this one.
#[cfg(unix)]
pub(super) fn create(path: &Path, mode: u32) -> io::Result<()> {
    use std::{
        fs::{OpenOptions, Permissions},
        os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
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
        .mode(REQUIRED_BITS)
        .open(path);
    match created {
        // The umask does not count here.
        Ok(file) if mode != REQUIRED_BITS => file.set_permissions(Permissions::from_mode(mode)),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Does nothing: who may read a new file is the folder's matter here.
#[cfg(not(unix))]
pub(super) fn create(_path: &Path, _mode: u32) -> io::Result<()> {
    Ok(())
}
