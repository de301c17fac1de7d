//! Redis, or Valkey.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Kind, START_TIMEOUT, Server, new_folder, on_path};

pub(super) struct Redis {
    bin: PathBuf,
}

impl Server {
    /// Starts Redis or Valkey. Returns `None` if neither is installed.
    pub fn redis() -> Option<Self> {
        let bin = ["redis-server", "valkey-server"]
            .iter()
            .find_map(|name| on_path(name))?;
        Some(Self::launch(
            Kind::Redis(Redis { bin }),
            new_folder("redis"),
        ))
    }
}

impl Redis {
    pub(super) fn command(&self, folder: &Path, port: u16) -> Command {
        let mut command = Command::new(&self.bin);
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "always"])
            .arg("--pidfile")
            .arg(folder.join("pid"))
            .arg("--dir")
            .arg(folder);
        command
    }

    pub(super) fn answers(&self, port: u16) -> bool {
        says(port, "PING\r\n").is_ok_and(|said| said.contains("PONG"))
    }
}

fn says(port: u16, command: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(START_TIMEOUT))?;
    stream.write_all(command.as_bytes())?;
    let mut said = [0; 64];
    let len = stream.read(&mut said)?;
    Ok(String::from_utf8_lossy(&said[..len]).into_owned())
}
