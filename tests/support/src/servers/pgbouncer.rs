//! PgBouncer, in front of PostgreSQL.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Kind, Server, new_folder, on_path,
    user::{User, as_user},
};

pub(super) struct PgBouncer {
    bin: PathBuf,
    user: Option<User>,
}

impl Server {
    /// Starts PgBouncer in front of `postgres`, with these settings and otherwise as it is by default.
    /// Returns `None` if it is not installed.
    pub fn pgbouncer(postgres: &Self, settings: &[(&str, &str)]) -> Option<Self> {
        // Where it is for administrators alone, it is off the path of others.
        let debian = Path::new("/usr/sbin/pgbouncer");
        let bin = on_path("pgbouncer").or_else(|| debian.is_file().then(|| debian.to_owned()))?;
        let folder = new_folder("pgbouncer");
        let user = User::for_postgres();
        if let Some(user) = &user {
            user.own(&folder);
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
        Some(Self::launch(
            Kind::PgBouncer(PgBouncer { bin, user }),
            folder,
        ))
    }

    /// Adds settings to those of PgBouncer, while it runs. It takes them a moment later.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let config = self.folder.join("config");
        let mut text = fs::read_to_string(&config).expect("written before");
        text.push_str(&lines(settings));
        fs::write(config, text).expect("written");
        self.signal("HUP");
    }
}

impl PgBouncer {
    pub(super) fn command(&self, folder: &Path, port: u16) -> Command {
        let template = fs::read_to_string(folder.join("template"));
        let config = folder.join("config");
        let text = template.expect("written before");
        fs::write(&config, text.replace("{port}", &port.to_string())).expect("written");
        let mut command = Command::new(&self.bin);
        command.arg(config);
        as_user(command, self.user.as_ref())
    }
}

/// Returns settings as lines of a file.
fn lines(settings: &[(&str, &str)]) -> String {
    let lines = settings
        .iter()
        .map(|(name, value)| format!("{name} = {value}\n"));
    lines.collect()
}
