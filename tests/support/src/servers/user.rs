//! The user that servers run as which refuse to run as root.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::Path,
    process::Command,
};

/// The user that PostgreSQL and PgBouncer run as, since they refuse to run as root.
pub(super) struct User {
    uid: u32,
    gid: u32,
}

impl User {
    pub(super) fn for_postgres() -> Option<Self> {
        let id = Command::new("id").arg("-u").output().expect("id runs");
        if id.stdout.trim_ascii() != b"0" {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").expect("users");
        let user = ["postgres", "nobody"].iter().find_map(|name| {
            let mut fields = users
                .lines()
                .map(|line| line.split(':'))
                .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self { uid, gid })
        });
        Some(user.expect("a user other than root"))
    }

    /// Makes the file or folder this user's own.
    pub(super) fn own(&self, path: &Path) {
        chown(path, Some(self.uid), Some(self.gid)).expect("root may");
    }
}

pub(super) fn as_user(mut command: Command, user: Option<&User>) -> Command {
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid).current_dir("/");
    }
    command
}
