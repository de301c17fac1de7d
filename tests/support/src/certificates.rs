//! Certificates of an authority that exists for one test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// An authority, with the certificates that it has given to a server on this machine and to a client.
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Makes them in a new folder, the server's for `localhost`. Returns `None` if OpenSSL is not
    /// installed.
    pub fn new(name: &str) -> Option<Self> {
        Self::with_names(name, "DNS:localhost")
    }

    /// Makes them as [`new`](Self::new) does, the server's for these names, such as
    /// `DNS:localhost,IP:127.0.0.1`.
    pub fn with_names(name: &str, names: &str) -> Option<Self> {
        Command::new("openssl").arg("version").output().ok()?;
        let folder = format!("cst-certificates-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).expect("a folder");
        let names = format!("subjectAltName={names}\n");
        fs::write(folder.join("names"), names).expect("written");
        // Without an extension OpenSSL makes a certificate of version 1, which rustls refuses.
        let extension = "basicConstraints=CA:FALSE\n";
        fs::write(folder.join("extension"), extension).expect("written");
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        for command in [
            format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=tests"),
            format!("req {key} -keyout server.key -out server.csr -subj /CN=server"),
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -out server.pem -extfile names"
                .to_owned(),
            format!("req {key} -keyout client.key -out client.csr -subj /CN=client"),
            "x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -out client.pem -extfile extension"
                .to_owned(),
        ] {
            let mut openssl = Command::new("openssl");
            openssl.args(command.split_whitespace());
            openssl.current_dir(&folder).stdin(Stdio::null());
            let output = openssl.output().expect("openssl runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "openssl {command}: {said}");
        }
        Some(Self { folder })
    }

    /// Returns the file with the authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Returns a file's content: `ca.pem`, `server.pem`, `server.key`, `client.pem` or `client.key`.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).expect("made before")
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(Path::new(&self.folder));
    }
}
