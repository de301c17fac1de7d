//! PostgreSQL.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Kind, Server, new_folder, on_path,
    user::{User, as_user},
};

pub(super) struct Postgres {
    bin: PathBuf,
    user: Option<User>,
    settings: Vec<String>,
}

impl Server {
    /// Starts PostgreSQL. Returns `None` if it is not installed.
    pub fn postgres() -> Option<Self> {
        Self::postgres_with(&[], &[])
    }

    /// Starts PostgreSQL with these settings, such as `ssl=on`, and these files in its data folder.
    /// Returns `None` if it is not installed.
    pub fn postgres_with(settings: &[&str], files: &[(&str, &str)]) -> Option<Self> {
        let bin = postgres_binaries()?;
        let folder = new_folder("postgres");
        let user = User::for_postgres();
        if let Some(user) = &user {
            user.own(&folder);
        }
        let mut init = Command::new(bin.join("initdb"));
        init.args(["--username=tests", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C", "--no-sync", "--pgdata"])
            .arg(folder.join("data"));
        let output = as_user(init, user.as_ref()).output().expect("initdb runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "initdb: {said}");
        for (name, text) in files {
            let file = folder.join("data").join(name);
            fs::write(&file, text).expect("written");
            // The server refuses a key that others may read.
            fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("it is ours");
            if let Some(user) = &user {
                user.own(&file);
            }
        }
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let postgres = Postgres {
            bin,
            user,
            settings,
        };
        Some(Self::launch(Kind::Postgres(postgres), folder))
    }

    /// Adds an empty file to the data folder of PostgreSQL, such as `standby.signal`, which takes effect
    /// when it starts again.
    pub fn add_file(&self, name: &str) {
        let data = self.folder.join("data");
        fs::write(data.join(name), "").expect("written");
        if let Some(user) = User::for_postgres() {
            user.own(&data.join(name));
        }
    }

    /// Kills one process of PostgreSQL, as a system without memory does: the others end too, and the
    /// server starts again by itself, from what it has written.
    pub fn crash(&self) {
        let is_writer = |process: &u32| {
            let command = fs::read_to_string(format!("/proc/{process}/cmdline"));
            command.is_ok_and(|command| command.contains("walwriter"))
        };
        let writer = self.processes().into_iter().find(is_writer);
        let writer = writer.expect("a process that writes the log").to_string();
        let killed = Command::new("kill").args(["-s", "KILL", &writer]).status();
        assert!(killed.is_ok_and(|killed| killed.success()), "it is ours");
    }
}

impl Postgres {
    pub(super) fn command(&self, folder: &Path, port: u16) -> Command {
        let mut command = Command::new(self.bin.join("postgres"));
        command
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            // Data survives a kill of the process without it; only a power cut needs it.
            .args(["-c", "fsync=off", "-c", "max_connections=200", "-k"])
            .arg(folder)
            .arg("-D")
            .arg(folder.join("data"))
            .args(self.settings.iter().flat_map(|setting| ["-c", setting]));
        as_user(command, self.user.as_ref())
    }

    pub(super) fn answers(&self, port: u16) -> bool {
        let port = port.to_string();
        let mut ask = Command::new(self.bin.join("pg_isready"));
        ask.args(["--quiet", "--host=127.0.0.1", "--port", &port]);
        ask.status().is_ok_and(|status| status.success())
    }
}

fn postgres_binaries() -> Option<PathBuf> {
    let whole = |folder: &PathBuf| {
        let programs = ["initdb", "postgres", "pg_isready"];
        programs.iter().all(|name| folder.join(name).is_file())
    };
    let beside = on_path("initdb").and_then(|path| path.parent().map(Path::to_owned));
    // Debian keeps each version's servers in a folder of its own, off the path.
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = debian.flatten().map(|entry| entry.path().join("bin"));
    beside.into_iter().chain(debian).filter(whole).max()
}
