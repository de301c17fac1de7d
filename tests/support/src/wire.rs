//! What a client of PostgreSQL sends, message by message.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// A proxy that notes the statements that pass through it, and counts round trips. It runs until the runtime that created it
/// ends. Clients must not ask for TLS.
pub struct Wire {
    pub port: u16,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    parsed: Mutex<Vec<Parsed>>,
    round_trips: AtomicUsize,
}

/// A statement that a client had parsed by itself, apart from its execution.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub text: String,
    pub has_name: bool,
    pub in_transaction: bool,
}

impl Wire {
    pub async fn new(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let seen = Arc::<Seen>::default();
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, server, Arc::clone(&all)));
            }
        });
        Self { port, seen }
    }

    /// Returns how many times a client has waited for the server so far, once connected.
    pub fn round_trips(&self) -> usize {
        self.seen.round_trips.load(SeqCst)
    }

    /// Returns what was parsed so far.
    pub fn parsed(&self) -> Vec<Parsed> {
        self.seen.parsed.lock().expect("no panic").clone()
    }
}

async fn connection(client: TcpStream, server: u16, seen: Arc<Seen>) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // 'I' outside transactions, 'T' in one, as the server says.
    let status = AtomicU8::new(b'I');
    tokio::select! {
        done = carry_questions(from_client, to_server, &status, &seen) => done,
        done = carry_answers(from_server, to_client, &status) => done,
    }
}

async fn carry_questions(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    status: &AtomicU8,
    seen: &Seen,
) -> io::Result<()> {
    // The first message has no kind.
    let startup = message(&mut from, None).await?;
    to.write_all(&startup).await?;
    loop {
        let kind = from.read_u8().await?;
        let message = message(&mut from, Some(kind)).await?;
        // A simple query, or the end of other messages: the server answers that it is ready.
        if matches!(kind, b'Q' | b'S') {
            seen.round_trips.fetch_add(1, SeqCst);
        }
        if kind == b'P' {
            let mut texts = message[5..].split(|byte| *byte == 0);
            let name = texts.next().unwrap_or_default();
            let text = texts.next().unwrap_or_default();
            seen.parsed.lock().expect("no panic").push(Parsed {
                text: String::from_utf8_lossy(text).into_owned(),
                has_name: !name.is_empty(),
                in_transaction: status.load(SeqCst) == b'T',
            });
        }
        to.write_all(&message).await?;
    }
}

async fn carry_answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    status: &AtomicU8,
) -> io::Result<()> {
    loop {
        let kind = from.read_u8().await?;
        let message = message(&mut from, Some(kind)).await?;
        if kind == b'Z' {
            status.store(message[5], SeqCst);
        }
        to.write_all(&message).await?;
    }
}

/// Reads the rest of a message, and returns the whole.
async fn message(from: &mut OwnedReadHalf, kind: Option<u8>) -> io::Result<Vec<u8>> {
    let len = from.read_u32().await?;
    let mut message: Vec<u8> = kind.into_iter().chain(len.to_be_bytes()).collect();
    let head = message.len();
    message.resize(head + len as usize - 4, 0);
    from.read_exact(&mut message[head..]).await?;
    Ok(message)
}
