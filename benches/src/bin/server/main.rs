//! A whole server: axum on the loopback, with one worker on one core; the load runs on the other
//! core. Servers without a layer, with the floor layer, with ours and with others take turns. All
//! layers are added with `Router::layer`.

mod load;
mod serve;
mod work;

use std::{
    env,
    io::{self, BufRead as _, BufReader},
    process::{Child, Stdio},
    time::Duration,
};

use customer_session_benches::{
    full_or_quick,
    measure::cores,
    results::{Served, save},
    scene::block_on,
    stacks::names::FLOOR,
};

use load::Clients;
use work::Work;

fn main() -> io::Result<()> {
    if env::args().nth(1).as_deref() == Some("serve") {
        return serve::serve();
    }
    cores::pin_thread(1);
    let mut server = cores::command_on(0, &env::current_exe()?)
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let results = block_on(measure(&mut server));
    // The server ends when its standard input does.
    drop(server.stdin.take());
    server.wait()?;
    let results = results?;
    println!(
        "{:<50} {:>10} {:>7} {:>8} {:>7} {:>7} {:>6}",
        "server", "requests/s", "x none", "µs", "x none", "x floor", "rounds"
    );
    let floor = Served::find(&results, FLOOR).expect("measured");
    for server in &results {
        println!(
            "{:<50} {:>10.0} {:>7.3} {:>8.2} {:>7.3} {:>7.3} {:>6}",
            server.name,
            server.median_of(|server| &server.rates),
            server.ratio_to(&results[0], |server| &server.rates),
            server.median_of(|server| &server.work),
            server.ratio_to(&results[0], |server| &server.work),
            server.ratio_to(floor, |server| &server.work),
            server.rounds_at_work()
        );
    }
    save("server", &results)
}

async fn measure(server: &mut Child) -> io::Result<Vec<Served>> {
    let work = Work::of(server.id());
    let output = server.stdout.take().expect("piped");
    let mut results = Vec::new();
    let mut clients = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let unreadable = || io::Error::other("what the server says is not understood");
        let (port, rest) = line.split_once('\t').ok_or_else(unreadable)?;
        let (name, header) = rest.split_once('\t').ok_or_else(unreadable)?;
        let port = port.parse().map_err(io::Error::other)?;
        clients.push(Clients::connect(port, header).await?);
        results.push(Served {
            name: name.to_owned(),
            rates: Vec::new(),
            work: Vec::new(),
            busy: Vec::new(),
        });
    }
    let rounds = full_or_quick(100, 4);
    let time = Duration::from_millis(full_or_quick(200, 100));
    for round in 0..=rounds {
        for turn in 0..clients.len() {
            let which = (round + turn) % clients.len();
            let before = work.so_far()?;
            let load = clients[which].send(time).await?;
            let spent = work.so_far()? - before;
            // The first round warms up.
            if round > 0 {
                let result = &mut results[which];
                let requests = load.requests as f64;
                result.rates.push(requests / load.time.as_secs_f64());
                result.work.push(spent.at_work as f64 / 1e3 / requests);
                result
                    .busy
                    .push(spent.wanted as f64 / load.time.as_nanos() as f64);
            }
        }
    }
    Ok(results)
}
