//! A network that loses connections, with a word or without, refuses them, or is slow.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// A proxy, which runs until the runtime that created it ends.
pub struct Proxy {
    pub port: u16,
    conditions: watch::Sender<Conditions>,
}

#[derive(Clone, Copy, Default)]
struct Conditions {
    /// The number of times that all connections were cut.
    cuts: u32,
    /// The number of times that all connections were frozen for good.
    freezes: u32,
    /// Nothing passes for now.
    is_paused: bool,
    /// New connections are closed at once.
    refuses: bool,
    /// The delay of each piece.
    delay: Duration,
}

impl Proxy {
    pub async fn new(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (conditions, _) = watch::channel(Conditions::default());
        let sender = conditions.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let conditions = sender.subscribe();
                let now = *conditions.borrow();
                if !now.refuses {
                    tokio::spawn(connection(client, server, conditions, now));
                }
            }
        });
        Self { port, conditions }
    }

    /// Lets nothing pass through the present connections any more; new ones are fine.
    pub fn freeze(&self) {
        self.conditions
            .send_modify(|conditions| conditions.freezes += 1);
    }

    /// Closes the present connections, frozen ones too.
    pub fn cut(&self) {
        self.conditions
            .send_modify(|conditions| conditions.cuts += 1);
    }

    /// Lets nothing pass while `is_paused`; what is sent meanwhile arrives later.
    pub fn pause(&self, is_paused: bool) {
        self.conditions
            .send_modify(|conditions| conditions.is_paused = is_paused);
    }

    /// Closes new connections at once while `refuses`.
    pub fn refuse(&self, refuses: bool) {
        self.conditions
            .send_modify(|conditions| conditions.refuses = refuses);
    }

    /// Delays each piece by `delay` from now on.
    pub fn delay(&self, delay: Duration) {
        self.conditions
            .send_modify(|conditions| conditions.delay = delay);
    }
}

async fn connection(
    client: TcpStream,
    server: u16,
    mut conditions: watch::Receiver<Conditions>,
    initial: Conditions,
) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (asks, answers) = (conditions.clone(), conditions.clone());
    tokio::select! {
        // The end of one direction is the end of both.
        done = carry(from_client, to_server, asks, initial) => done,
        done = carry(from_server, to_client, answers, initial) => done,
        _ = conditions.wait_for(|now| now.cuts != initial.cuts) => Ok(()),
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut conditions: watch::Receiver<Conditions>,
    initial: Conditions,
) -> io::Result<()> {
    let mut piece = vec![0; 16 * 1024];
    loop {
        let len = from.read(&mut piece).await?;
        let delay = conditions
            .wait_for(|now| now.freezes == initial.freezes && !now.is_paused)
            .await
            .map_err(io::Error::other)?
            .delay;
        if len == 0 {
            return Ok(());
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        to.write_all(&piece[..len]).await?;
    }
}
