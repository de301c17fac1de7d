//! Redis, or Valkey.

use std::{
    env,
    fmt::Write as _,
    fs::{self, Permissions},
    io::{
        self, BufReader,
        ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof},
    },
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use super::{Kind, START_TIMEOUT, Server, new_folder, on_path, resp, wait_until};
use crate::certificates::Certificates;

/// The settings of every server, which others may overrule.
const DEFAULTS: &str = "bind 127.0.0.1\n\
                        save \"\"\n\
                        appendonly yes\n\
                        appendfsync always\n\
                        repl-diskless-sync-delay 0\n";

/// A user that may do everything, for the commands of the tests themselves.
const ADMINISTRATOR: &str = "user tests-administrator on nopass ~* &* +@all\n";

pub(super) struct Redis {
    program: PathBuf,
    mode: Mode,
    settings: String,
    /// The settings limit what clients may do, or demand a password.
    has_users: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Plain,
    Tls,
    Sentinel,
}

impl Server {
    /// Starts Redis or Valkey. Returns `None` if neither is installed.
    pub fn redis() -> Option<Self> {
        Self::redis_with(&[], &[])
    }

    /// Starts Redis or Valkey with these settings, such as `("timeout", "1")` and
    /// `("user", "reader on >secret ~* +get")`, and these files in its folder, which `aclfile` and the
    /// like may name. Returns `None` if neither is installed.
    pub fn redis_with(settings: &[(&str, &str)], files: &[(&str, &str)]) -> Option<Self> {
        Self::redis_in(Mode::Plain, settings, files)
    }

    /// Starts Redis or Valkey with TLS alone, and with these settings. It refuses a client without a
    /// certificate if `asks_for_client_certificate`. Returns `None` if neither is installed.
    pub fn redis_tls(
        certificates: &Certificates,
        asks_for_client_certificate: bool,
        settings: &[(&str, &str)],
    ) -> Option<Self> {
        let [authority, certificate, key] =
            ["ca.pem", "server.pem", "server.key"].map(|name| certificates.read(name));
        let files = [
            ("ca.pem", authority.as_str()),
            ("server.pem", &certificate),
            ("server.key", &key),
        ];
        let mut all = vec![
            ("tls-ca-cert-file", "ca.pem"),
            ("tls-cert-file", "server.pem"),
            ("tls-key-file", "server.key"),
        ];
        let asks = if asks_for_client_certificate {
            "yes"
        } else {
            "no"
        };
        all.push(("tls-auth-clients", asks));
        all.extend(settings);
        Self::redis_in(Mode::Tls, &all, &files)
    }

    pub(super) fn redis_in(
        mode: Mode,
        settings: &[(&str, &str)],
        files: &[(&str, &str)],
    ) -> Option<Self> {
        let program = program()?;
        let folder = new_folder("redis");
        let acl_file = settings.iter().find(|(name, _)| *name == "aclfile");
        for (name, text) in files {
            let mut text = (*text).to_owned();
            if acl_file.is_some_and(|(_, file)| file == name) {
                text.push_str(ADMINISTRATOR);
            }
            fs::write(folder.join(name), text).expect("written");
            let private = Permissions::from_mode(0o600);
            fs::set_permissions(folder.join(name), private).expect("it is ours");
        }
        let has_users = settings
            .iter()
            .any(|(name, _)| ["aclfile", "requirepass", "user"].contains(name));
        let mut lines = String::new();
        for (name, value) in settings {
            writeln!(lines, "{name} {value}").expect("memory");
        }
        if has_users && acl_file.is_none() {
            lines.push_str(ADMINISTRATOR);
        }
        let redis = Redis {
            program,
            mode,
            settings: lines,
            has_users,
        };
        Some(Self::launch(Kind::Redis(redis), folder))
    }

    /// Runs one command as a user that may do everything, and returns the answer as text: the
    /// elements of an array are lines, and an error begins with `-`. It does not need TLS. The command is sent
    /// again if the connection is closed before its answer.
    ///
    /// # Panics
    ///
    /// If the server is not Redis, is killed, or does not answer for 30 seconds.
    pub fn redis_cli(&self, words: &[&str]) -> String {
        let Kind::Redis(redis) = &self.kind else {
            panic!("{} is not Redis", self.url());
        };
        let asked = Instant::now();
        let is_lost = |answer: &io::Result<String>| {
            let kind = answer.as_ref().err().map(io::Error::kind);
            matches!(kind, Some(ConnectionReset | BrokenPipe | UnexpectedEof))
        };
        let mut answer = redis.says(&self.folder, words);
        // Sentinels close all connections of a server that they make a replica.
        while is_lost(&answer) && asked.elapsed() < START_TIMEOUT {
            answer = redis.says(&self.folder, words);
        }
        answer.unwrap_or_else(|error| panic!("{} to {}: {error}", words[0], self.url()))
    }

    /// Makes each change wait, so that a replica can receive all that were confirmed.
    pub(super) fn hold_changes(&self) {
        let answer = self.redis_cli(&["CLIENT", "PAUSE", "60000", "WRITE"]);
        assert_eq!(answer, "OK");
    }

    /// Refuses changes, as a primary does that has lost its replicas, instead of
    /// [`hold_changes`](Self::hold_changes).
    pub(super) fn refuse_changes(&self) {
        for command in [
            ["CONFIG", "SET", "min-replicas-to-write", "9"].as_slice(),
            &["CLIENT", "UNPAUSE"],
        ] {
            assert_eq!(self.redis_cli(command), "OK", "{command:?}");
        }
    }

    /// Waits until it is a replica, and ends [`refuse_changes`](Self::refuse_changes).
    pub(super) fn accept_changes_as_replica(&self) {
        let is_replica = || {
            let info = self.redis_cli(&["INFO", "replication"]);
            field(&info, "role") == Some("slave")
        };
        wait_until(|| format!("{} is a replica", self.url()), is_replica);
        for command in [
            ["CONFIG", "SET", "min-replicas-to-write", "0"].as_slice(),
            // A sentinel has saved the other value.
            &["CONFIG", "REWRITE"],
        ] {
            assert_eq!(self.redis_cli(command), "OK", "{command:?}");
        }
    }

    /// Waits until a replica has received what this primary has written so far.
    pub fn wait_until_replicated_to(&self, replica: &Self) {
        let offset = |server: &Self, name| {
            let info = server.redis_cli(&["INFO", "replication"]);
            let offset = field(&info, name).and_then(|offset| offset.parse::<u64>().ok());
            offset.unwrap_or(0)
        };
        let written = offset(self, "master_repl_offset");
        wait_until(
            || format!("{} has received {written} bytes", replica.url()),
            || offset(replica, "slave_repl_offset") >= written,
        );
    }

    /// Returns the words of `MIGRATE` that authenticate the administrator on the other server.
    pub(super) fn redis_authentication(&self) -> &'static [&'static str] {
        match &self.kind {
            Kind::Redis(redis) if redis.has_users => &["AUTH2", "tests-administrator", "any"],
            _ => &[],
        }
    }
}

impl Redis {
    pub(super) fn command(&self, folder: &Path, port: u16) -> Command {
        let config = folder.join("redis.conf");
        // A server may have written its own changes into the file.
        if !config.exists() {
            fs::write(&config, self.config(folder, port)).expect("written");
        }
        let mut command = Command::new(&self.program);
        command.arg(config).current_dir(folder);
        if self.mode == Mode::Sentinel {
            command.arg("--sentinel");
        }
        command
    }

    fn config(&self, folder: &Path, port: u16) -> String {
        let folder = folder.display();
        let port = match self.mode {
            Mode::Tls => format!("port 0\ntls-port {port}"),
            Mode::Plain | Mode::Sentinel => format!("port {port}"),
        };
        format!(
            "{port}\nunixsocket {folder}/socket\npidfile {folder}/pid\ndir {folder}\n{DEFAULTS}{}",
            self.settings
        )
    }

    pub(super) fn answers(&self, folder: &Path) -> bool {
        let answer = self.says(folder, &["PING"]);
        answer.is_ok_and(|answer| answer == "PONG")
    }

    fn says(&self, folder: &Path, words: &[&str]) -> io::Result<String> {
        let mut stream = UnixStream::connect(folder.join("socket"))?;
        stream.set_read_timeout(Some(START_TIMEOUT))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        if self.has_users {
            resp::send(&mut stream, &["AUTH", "tests-administrator", "any"])?;
            resp::receive(&mut reader)?;
        }
        resp::send(&mut stream, words)?;
        resp::receive(&mut reader)
    }

    pub(super) fn url(&self, port: u16) -> String {
        match self.mode {
            // The name in its certificate.
            Mode::Tls => format!("rediss://localhost:{port}"),
            Mode::Plain | Mode::Sentinel => format!("redis://127.0.0.1:{port}"),
        }
    }
}

/// Returns the program that `TEST_REDIS_PROGRAM` names, else Redis, else Valkey.
fn program() -> Option<PathBuf> {
    if let Ok(name) = env::var("TEST_REDIS_PROGRAM") {
        let program = on_path(&name);
        assert!(program.is_some(), "TEST_REDIS_PROGRAM: {name} is not there");
        return program;
    }
    ["redis-server", "valkey-server"]
        .iter()
        .find_map(|name| on_path(name))
}

/// Returns the value of a field in an answer of `INFO` or `CLUSTER INFO`.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = info.lines().filter_map(|line| line.split_once(':'));
    fields.find_map(|(field, value)| (field == name).then_some(value))
}
