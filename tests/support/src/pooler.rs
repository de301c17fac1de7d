//! What a pooler by transaction is to a listener on PostgreSQL.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// A proxy that passes queries and answers on, and keeps notifications to itself. It runs until the
/// runtime that created it ends.
pub struct Pooler {
    pub port: u16,
    is_deaf: Arc<AtomicBool>,
}

impl Pooler {
    pub async fn new(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let is_deaf = Arc::new(AtomicBool::new(true));
        let deaf = Arc::clone(&is_deaf);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, server, Arc::clone(&deaf)));
            }
        });
        Self { port, is_deaf }
    }

    /// Passes notifications on from now on, or not.
    pub fn pass_notifications(&self, passes: bool) {
        self.is_deaf.store(!passes, SeqCst);
    }
}

async fn connection(client: TcpStream, server: u16, is_deaf: Arc<AtomicBool>) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    tokio::select! {
        done = copy(&mut from_client, &mut to_server) => done.map(drop),
        done = carry(from_server, to_client, is_deaf) => done,
    }
}

/// Carries the messages of a server that was not asked for TLS.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    is_deaf: Arc<AtomicBool>,
) -> io::Result<()> {
    loop {
        let kind = from.read_u8().await?;
        let len = from.read_u32().await?;
        let mut message = vec![0; 5 + len as usize - 4];
        message[0] = kind;
        message[1..5].copy_from_slice(&len.to_be_bytes());
        from.read_exact(&mut message[5..]).await?;
        if kind != b'A' || !is_deaf.load(SeqCst) {
            to.write_all(&message).await?;
        }
    }
}
