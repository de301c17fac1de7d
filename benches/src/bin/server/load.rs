//! The load: enough connections to keep the server at work. Each asks again when it has its
//! answer, and does as little as it can, so that the server is what is measured.

use std::{
    io,
    time::{Duration, Instant},
};

use customer_session_benches::scene::HEADERS;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

const CONNECTIONS: usize = 32;

/// Extra time for the answers that are still awaited when a round ends.
const DEADLINE_SLACK: Duration = Duration::from_secs(5);

pub struct Clients {
    clients: Vec<Client>,
}

struct Client {
    connection: TcpStream,
    request: Vec<u8>,
    /// Length of a whole answer; all are alike.
    answer: usize,
}

pub struct Load {
    pub requests: u64,
    pub time: Duration,
}

impl Clients {
    /// Opens all connections.
    pub async fn connect(port: u16, header: &str) -> io::Result<Self> {
        let mut request = "GET /me HTTP/1.1\r\n".to_owned();
        for (name, value) in HEADERS {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("{header}\r\n\r\n");
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = Client {
                connection: TcpStream::connect(("127.0.0.1", port)).await?,
                request: request.clone().into_bytes(),
                answer: 0,
            };
            client.connection.set_nodelay(true)?;
            client.answer = client.first_answer().await?;
            clients.push(client);
        }
        Ok(Self { clients })
    }

    /// Sends requests for this long.
    pub async fn send(&mut self, time: Duration) -> io::Result<Load> {
        let begun = Instant::now();
        let mut asking = JoinSet::new();
        for mut client in self.clients.drain(..) {
            asking.spawn(async move {
                let mut answers = 0;
                while begun.elapsed() < time {
                    client.request().await?;
                    answers += 1;
                }
                Ok::<_, io::Error>((client, answers))
            });
        }
        let mut requests = 0;
        let late = tokio::time::sleep(time + DEADLINE_SLACK);
        tokio::pin!(late);
        loop {
            let asked = tokio::select! {
                asked = asking.join_next() => asked,
                () = &mut late => return Err(io::ErrorKind::TimedOut.into()),
            };
            let Some(asked) = asked else { break };
            let (client, answers) = asked.map_err(io::Error::other)??;
            requests += answers;
            self.clients.push(client);
        }
        Ok(Load {
            requests,
            time: begun.elapsed(),
        })
    }
}

const OK: &[u8] = b"HTTP/1.1 200 ";

impl Client {
    /// Reads the first answer to its end, and returns its length.
    async fn first_answer(&mut self) -> io::Result<usize> {
        self.connection.write_all(&self.request).await?;
        let mut answer = vec![0; 4096];
        let mut length = 0;
        while !answer[..length].ends_with(b"\r\n\r\nhello") {
            match self.connection.read(&mut answer[length..]).await? {
                0 => return Err(refused(&answer[..length])),
                more => length += more,
            }
            if !answer[..length].starts_with(OK) {
                return Err(refused(&answer[..length]));
            }
        }
        Ok(length)
    }

    async fn request(&mut self) -> io::Result<()> {
        self.connection.write_all(&self.request).await?;
        let mut answer = [0; 1024];
        self.connection
            .read_exact(&mut answer[..self.answer])
            .await?;
        match answer.starts_with(OK) {
            true => Ok(()),
            false => Err(refused(&answer)),
        }
    }
}

fn refused(answer: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(answer);
    let status = text.lines().next().unwrap_or_default();
    io::Error::other(format!("the server answers: {status}"))
}
