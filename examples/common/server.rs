//! Starting a server and ending the process, the same in each example that listens.

use std::{error::Error, process::ExitCode};

use tokio::net::TcpListener;

/// Listens on this machine: on port 3000, or on the one that `PORT` names; `0` is a free one.
pub(crate) async fn bind() -> Result<TcpListener, Box<dyn Error>> {
    let port: u16 = match std::env::var("PORT") {
        Ok(port) => port
            .parse()
            .map_err(|_| "PORT must be a number up to 65535")?,
        Err(_) => 3000,
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).await;
    Ok(listener.map_err(|error| {
        format!("cannot listen on port {port} ({error}); choose another with PORT, or PORT=0")
    })?)
}

/// Prints an error and its causes, and returns the exit code of the process.
pub(crate) fn exit_code(result: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    eprint!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
    ExitCode::FAILURE
}
