//! Throw-away database servers, each with a folder and a port of its own, which end with the
//! process of the test.

use std::{
    env,
    fs::{self, Permissions},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Prints a text past the test harness, which would capture it.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "\n{text}\n");
}

/// Says that the tests of `what` are skipped. Fails if `scripts/test` asks for all servers.
pub fn missing(what: &str) {
    assert!(
        env::var_os("TEST_ALL_SERVERS").is_none(),
        "{what} is not installed, and TEST_ALL_SERVERS is set"
    );
    say(&format!(
        "SKIPPED: {what} is not installed; scripts/test installs what is missing"
    ));
}

/// A server of this process.
pub struct Server {
    kind: Kind,
    folder: PathBuf,
    pub port: u16,
    child: Option<Child>,
    /// Ends the server and removes the folder when this process has ended, in whatever way.
    _guardian: Guardian,
}

enum Kind {
    Postgres {
        bin: PathBuf,
        user: Option<User>,
        settings: Vec<String>,
    },
    Redis {
        bin: PathBuf,
    },
    PgBouncer {
        bin: PathBuf,
        user: Option<User>,
    },
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
            chown(&folder, Some(user.uid), Some(user.gid)).expect("root may");
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
                chown(&file, Some(user.uid), Some(user.gid)).expect("root may");
            }
        }
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let kind = Kind::Postgres {
            bin,
            user,
            settings,
        };
        Some(Self::launch(kind, folder))
    }

    /// Starts Redis or Valkey. Returns `None` if neither is installed.
    pub fn redis() -> Option<Self> {
        let bin = ["redis-server", "valkey-server"]
            .iter()
            .find_map(|name| on_path(name))?;
        Some(Self::launch(Kind::Redis { bin }, new_folder("redis")))
    }

    /// Starts PgBouncer in front of `postgres`, with these settings and otherwise as it is by default.
    /// Returns `None` if it is not installed.
    pub fn pgbouncer(postgres: &Self, settings: &[(&str, &str)]) -> Option<Self> {
        // Where it is for administrators alone, it is off the path of others.
        let debian = Path::new("/usr/sbin/pgbouncer");
        let bin = on_path("pgbouncer").or_else(|| debian.is_file().then(|| debian.to_owned()))?;
        let folder = new_folder("pgbouncer");
        let user = User::for_postgres();
        if let Some(user) = &user {
            chown(&folder, Some(user.uid), Some(user.gid)).expect("root may");
        }
        let users = folder.join("users");
        fs::write(&users, "\"tests\" \"\"\n").expect("written");
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {{port}}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\n{}",
            postgres.port,
            users.display(),
            lines(settings)
        );
        fs::write(folder.join("template"), config).expect("written");
        Some(Self::launch(Kind::PgBouncer { bin, user }, folder))
    }

    /// Adds settings to those of PgBouncer, while it runs. It takes them a moment later.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let config = self.folder.join("config");
        let mut text = fs::read_to_string(&config).expect("written before");
        text.push_str(&lines(settings));
        fs::write(config, text).expect("written");
        self.signal("HUP");
    }

    /// Adds an empty file to the data folder of PostgreSQL, such as `standby.signal`, which takes effect
    /// when it starts again.
    pub fn add_file(&self, name: &str) {
        let data = self.folder.join("data");
        fs::write(data.join(name), "").expect("written");
        if let Some(user) = User::for_postgres() {
            chown(data.join(name), Some(user.uid), Some(user.gid)).expect("root may");
        }
    }

    fn launch(kind: Kind, folder: PathBuf) -> Self {
        let mut server = Self {
            kind,
            port: free_port(),
            child: None,
            _guardian: Guardian::new(&folder),
            folder,
        };
        server.start();
        server
    }

    /// Starts it again after [`kill`](Self::kill), with the data in its files.
    pub fn start(&mut self) {
        let log = fs::File::create(self.folder.join("log")).expect("a log");
        let port = self.port.to_string();
        let command = match &self.kind {
            Kind::Postgres {
                bin,
                user,
                settings,
            } => {
                let mut command = Command::new(bin.join("postgres"));
                command
                    .args(["-p", &port, "-c", "listen_addresses=127.0.0.1"])
                    // Data survives a kill of the process without it; only a power cut needs it.
                    .args(["-c", "fsync=off", "-c", "max_connections=200", "-k"])
                    .arg(&self.folder)
                    .arg("-D")
                    .arg(self.folder.join("data"))
                    .args(settings.iter().flat_map(|setting| ["-c", setting]));
                as_user(command, user.as_ref())
            }
            Kind::Redis { bin } => {
                let mut command = Command::new(bin);
                command
                    .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
                    .args(["--appendonly", "yes", "--appendfsync", "always"])
                    .arg("--pidfile")
                    .arg(self.folder.join("pid"))
                    .arg("--dir")
                    .arg(&self.folder);
                command
            }
            Kind::PgBouncer { bin, user } => {
                let template = fs::read_to_string(self.folder.join("template"));
                let config = self.folder.join("config");
                let text = template.expect("written before").replace("{port}", &port);
                fs::write(&config, text).expect("written");
                let mut command = Command::new(bin);
                command.arg(config);
                as_user(command, user.as_ref())
            }
        };
        let mut command = command;
        command
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("a log"))
            .stdout(log);
        // Ctrl-C is for the tests; the server ends after them.
        command.process_group(0);
        let child = command.spawn().expect("the server starts");
        fs::write(self.folder.join("child"), child.id().to_string()).expect("written");
        self.child = Some(child);
        let begun = Instant::now();
        while !self.answers() {
            let child = self.child.as_mut().expect("just started");
            let ended = child.try_wait().expect("it is ours");
            let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "the server does not start: {}", log());
            assert!(
                begun.elapsed() < START_TIMEOUT,
                "the server does not answer: {}",
                log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn answers(&self) -> bool {
        match &self.kind {
            Kind::Postgres { bin, .. } => {
                let port = self.port.to_string();
                let mut ask = Command::new(bin.join("pg_isready"));
                ask.args(["--quiet", "--host=127.0.0.1", "--port", &port]);
                ask.status().is_ok_and(|status| status.success())
            }
            Kind::PgBouncer { .. } => TcpStream::connect(("127.0.0.1", self.port)).is_ok(),
            Kind::Redis { .. } => self
                .redis_says("PING\r\n")
                .is_ok_and(|said| said.contains("PONG")),
        }
    }

    fn redis_says(&self, command: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(START_TIMEOUT))?;
        stream.write_all(command.as_bytes())?;
        let mut said = [0; 64];
        let len = stream.read(&mut said)?;
        Ok(String::from_utf8_lossy(&said[..len]).into_owned())
    }

    /// Kills the server and its children with `SIGKILL`.
    pub fn kill(&mut self) {
        let processes = self.processes();
        self.signal("KILL");
        if let Some(mut child) = self.child.take() {
            child.wait().expect("it was ours");
            // Its children end by themselves, and PostgreSQL does not start beside one that is left.
            let begun = Instant::now();
            // One that has ended, and that nothing has waited for yet, is in state Z.
            let is_left = |process: &u32| {
                let state = fs::read_to_string(format!("/proc/{process}/stat"));
                state.is_ok_and(|state| !state.contains(") Z"))
            };
            while processes.iter().any(is_left) && begun.elapsed() < START_TIMEOUT {
                thread::sleep(Duration::from_millis(1));
            }
            // The guardian must not kill it: its number may belong to another process by then.
            let _ = fs::remove_file(self.folder.join("child"));
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

    /// Returns what it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).expect("a log")
    }

    /// Stops it in the middle of its work. Its connections stay open without an answer; new ones
    /// are accepted by the kernel, and get no answer either.
    pub fn pause(&self) {
        // Once its first process is stopped there are no new ones.
        self.signal("STOP");
        self.signal("STOP");
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Returns the numbers of the server's process and of its children.
    pub fn processes(&self) -> Vec<u32> {
        let Some(child) = &self.child else {
            return Vec::new();
        };
        let found = Command::new("pgrep")
            .args(["-P", &child.id().to_string()])
            .output();
        let found = String::from_utf8(found.expect("pgrep runs").stdout).expect("numbers");
        let children = found.lines().filter_map(|line| line.parse().ok());
        children.chain([child.id()]).collect()
    }

    /// Sends a signal to all its processes, some of which may have ended.
    fn signal(&self, signal: &str) {
        let processes = self.processes();
        let processes = processes.iter().map(u32::to_string);
        let _ = Command::new("kill")
            .stderr(Stdio::null())
            .args(["-s", signal])
            .args(processes)
            .status();
    }

    pub fn url(&self) -> String {
        match self.kind {
            Kind::Postgres { .. } | Kind::PgBouncer { .. } => {
                format!("postgres://tests@127.0.0.1:{}/postgres", self.port)
            }
            Kind::Redis { .. } => format!("redis://127.0.0.1:{}", self.port),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A shell that waits for the end of this process, then cleans up.
struct Guardian(Child);

impl Guardian {
    fn new(folder: &Path) -> Self {
        let script = "trap '' INT TERM HUP; cat; if pid=$(cat \"$0/child\"); then \
                      pkill -KILL -P $pid; kill -KILL $pid; sleep 0.2; fi; rm -rf \"$0\"";
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(shell.spawn().expect("sh runs"))
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The user that PostgreSQL runs as, since it refuses to run as root.
struct User {
    uid: u32,
    gid: u32,
}

impl User {
    fn for_postgres() -> Option<Self> {
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
}

fn as_user(mut command: Command, user: Option<&User>) -> Command {
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid).current_dir("/");
    }
    command
}

/// Returns settings as lines of a file.
fn lines(settings: &[(&str, &str)]) -> String {
    let lines = settings
        .iter()
        .map(|(name, value)| format!("{name} = {value}\n"));
    lines.collect()
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

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn new_folder(kind: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let folder = env::temp_dir().join(format!("cst-{kind}-{process}-{number}"));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}
