//! Throw-away database servers, each with a folder and a port of its own, which end with the
//! process of the test.

mod pgbouncer;
mod postgres;
mod redis;
mod redis_cluster;
mod redis_sentinel;
mod resp;
mod user;

use std::{
    env, fs,
    io::Write as _,
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

pub use self::{redis_cluster::RedisCluster, redis_sentinel::RedisSentinel};

use self::{pgbouncer::PgBouncer, postgres::Postgres, redis::Redis};

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
    is_paused: AtomicBool,
    /// Ends the server and removes the folder when this process has ended, in whatever way.
    _guardian: Guardian,
}

enum Kind {
    Postgres(Postgres),
    Redis(Redis),
    PgBouncer(PgBouncer),
}

impl Server {
    fn launch(kind: Kind, folder: PathBuf) -> Self {
        let mut server = Self {
            kind,
            port: free_port(),
            child: None,
            is_paused: AtomicBool::new(false),
            _guardian: Guardian::new(&folder),
            folder,
        };
        server.start();
        server
    }

    /// Starts it again after [`kill`](Self::kill), with the data in its files.
    pub fn start(&mut self) {
        let log = fs::File::create(self.folder.join("log")).expect("a log");
        let mut command = match &self.kind {
            Kind::Postgres(postgres) => postgres.command(&self.folder, self.port),
            Kind::Redis(redis) => redis.command(&self.folder, self.port),
            Kind::PgBouncer(bouncer) => bouncer.command(&self.folder, self.port),
        };
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
            Kind::Postgres(postgres) => postgres.answers(self.port),
            Kind::Redis(redis) => redis.answers(&self.folder),
            Kind::PgBouncer(_) => TcpStream::connect(("127.0.0.1", self.port)).is_ok(),
        }
    }

    /// Answers `true` if the server runs, and is neither killed nor paused.
    pub fn is_running(&self) -> bool {
        self.child.is_some() && !self.is_paused.load(Ordering::Relaxed)
    }

    /// Kills the server and its children with `SIGKILL`.
    pub fn kill(&mut self) {
        let processes = self.processes();
        self.signal("KILL");
        self.is_paused.store(false, Ordering::Relaxed);
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
        self.is_paused.store(true, Ordering::Relaxed);
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.signal("CONT");
        self.is_paused.store(false, Ordering::Relaxed);
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
        match &self.kind {
            Kind::Postgres(_) | Kind::PgBouncer(_) => {
                format!("postgres://tests@127.0.0.1:{}/postgres", self.port)
            }
            Kind::Redis(redis) => redis.url(self.port),
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

/// Returns a port that the system gives to no connection by itself: a killed server finds its port
/// free when it starts again, and a client that tries to connect meanwhile cannot meet itself.
fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Other processes of tests begin elsewhere.
    let begin = std::process::id().wrapping_mul(7919);
    let ports = (0..COUNT).map(|_| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + begin.wrapping_add(number) % COUNT;
        u16::try_from(port).expect("under 32000")
    });
    let mut free = ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().expect("a port")
}

/// Waits until it `holds`, and fails after 30 seconds with the description.
fn wait_until(describe: impl Fn() -> String, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < START_TIMEOUT, "not yet: {}", describe());
        thread::sleep(Duration::from_millis(20));
    }
}
