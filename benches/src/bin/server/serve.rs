//! The server: one runtime of one thread, and a port for each way to build the service.

use std::io::{self, Read as _};

use axum::{Router, serve::ListenerExt as _};
use customer_session_benches::{
    scene::Scene,
    stacks::{
        AxumLogin, Bare, ByHand, Floor, Ours, Quick, SyncCache,
        names::{AXUM_LOGIN, BY_HAND, FLOOR, NO_LAYER, OURS, QUICK_SERVICE},
    },
};
use tokio::{net::TcpListener, sync::oneshot};

/// Serves until the standard input ends.
pub fn serve() -> io::Result<()> {
    let scene = Scene::new(1000);
    let bearer = format!("authorization: Bearer {}", scene.hot().expose());
    let axum_login = AxumLogin::new(&scene);
    let cookie = format!("cookie: {}", axum_login.cookie());
    let services = [
        (NO_LAYER, &bearer, Bare::router()),
        (FLOOR, &bearer, Floor::router(&scene)),
        (OURS, &bearer, Ours::new(&scene).router()),
        (
            QUICK_SERVICE,
            &bearer,
            SyncCache::<Quick>::new(&scene).router(),
        ),
        (BY_HAND, &bearer, ByHand::new(&scene).router()),
        (AXUM_LOGIN, &cookie, axum_login.router()),
    ];
    let (gone, parent_is_gone) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = gone.send(());
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for (name, header, service) in services {
            let port = listen(service).await?;
            println!("{port}\t{name}\t{header}");
        }
        println!();
        let _ = parent_is_gone.await;
        Ok(())
    })
}

async fn listen(service: Router) -> io::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    tokio::spawn(async move { axum::serve(listener, service).await });
    Ok(port)
}
