//! A network that loses connections without a word.
#![allow(unreachable_pub, reason = "a module of tests")]

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub struct Proxy {
    pub port: u16,
    freezes: watch::Sender<()>,
}

impl Proxy {
    pub async fn new(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (freezes, _) = watch::channel(());
        let sender = freezes.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut frozen = sender.subscribe();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
                    tokio::select! {
                        done = copy_bidirectional(&mut client, &mut server) => done.map(drop),
                        // Both ends stay open, and hear nothing any more.
                        _ = frozen.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self { port, freezes }
    }

    /// From now on nothing goes through the connections that there are; new ones are fine.
    pub fn freeze(&self) {
        self.freezes.send_replace(());
    }
}
