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

/// Runs until the runtime that it was made on ends.
pub struct Proxy {
    pub port: u16,
    weather: watch::Sender<Weather>,
}

#[derive(Clone, Copy, Default)]
struct Weather {
    /// How often all connections were cut.
    cuts: u32,
    /// How often all connections were frozen for good.
    freezes: u32,
    /// Nothing goes through for now.
    stands_still: bool,
    /// New connections are closed at once.
    refuses: bool,
    /// How long each piece is on its way.
    delay: Duration,
}

impl Proxy {
    pub async fn new(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (weather, _) = watch::channel(Weather::default());
        let sender = weather.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let weather = sender.subscribe();
                let now = *weather.borrow();
                if !now.refuses {
                    tokio::spawn(connection(client, server, weather, now));
                }
            }
        });
        Self { port, weather }
    }

    /// From now on nothing goes through the connections that there are; new ones are fine.
    pub fn freeze(&self) {
        self.weather.send_modify(|weather| weather.freezes += 1);
    }

    /// Closes the connections that there are, frozen ones too.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Whether everything stands still: what is sent meanwhile arrives later.
    pub fn stand_still(&self, stands_still: bool) {
        self.weather
            .send_modify(|weather| weather.stands_still = stands_still);
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refuses: bool) {
        self.weather
            .send_modify(|weather| weather.refuses = refuses);
    }

    /// How long each piece is on its way from now on.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }
}

async fn connection(
    client: TcpStream,
    server: u16,
    mut weather: watch::Receiver<Weather>,
    born: Weather,
) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (asks, answers) = (weather.clone(), weather.clone());
    tokio::select! {
        // The end of one direction is the end of both.
        done = carry(from_client, to_server, asks, born) => done,
        done = carry(from_server, to_client, answers, born) => done,
        _ = weather.wait_for(|now| now.cuts != born.cuts) => Ok(()),
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    born: Weather,
) -> io::Result<()> {
    let mut piece = vec![0; 16 * 1024];
    loop {
        let len = from.read(&mut piece).await?;
        let delay = weather
            .wait_for(|now| now.freezes == born.freezes && !now.stands_still)
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
