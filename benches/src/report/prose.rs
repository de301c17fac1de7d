//! The text between the tables.

pub const INTRODUCTION: &str = "# What it costs

Measured by `benches/run`, which writes this page; what it printed is in [run.log](run.log).
Everything that is compared ran in turn, in the same rounds: figures are medians over the rounds,
ratios are medians of each round's ratio. Take the ratios from here to your machine, not the
nanoseconds. All is a plain `cargo build --release`, without link-time optimisation.

";

pub const ONE_REQUEST: &str = "
The same trivial service under each stack, 1,000 sessions loaded (\"a million\": 1,000,000), one of
them asked for again and again; the service reads who is asking from the request's extensions.
Requests are made before the clock starts, 64 at a time, and dropped before it stops. Allocations
are counted in a run of their own.

Percentiles are those of single calls, each between two readings of the clock; the median of
100,000 pairs of readings with nothing between them is subtracted. What else the clock costs, it
waits for instructions that would overlap with the next request, is counted, so that p50 is above
the time in a batch.

- \"Floor\" is the least cost of any layer that hands over an identity: one `Arc` put into the
  extensions, and read.
- \"Garbage\" is a live token with one character changed.
- The plain map is 64 `RwLock<HashMap>` with ahash below the smallest middleware, which answers
  the request itself.
- quick_cache under an own Tower service is the fastest that we could write by hand. It boxes
  nothing on a hit.
- Hand-written is the usual form: `from_fn`, `moka::future`, keys of type `String`, the standard
  hasher.

Only ours can revoke: in all the others a session stays open until it is evicted or expires. They
let any number of requests look up the same token at once, and remember no unknown tokens. They
read an exact clock at each hit; ours reads a coarse one, which costs less.
";

pub const GROWTH: &str = "
Many sessions asked for, each as often (\"uniform\": all of them in random order, over and over) or
the nth busiest in proportion to 1/n (\"Zipf\"). Cold are the first requests after loading, as many
as there are sessions: in uniform order each is the first hit of its session, in Zipf order the
busy ones come again. Warm is measured after each session has been hit twice. \"quick_cache\" is the
one under an own Tower service. The four caches take turns, so that each turn begins with what the
others left in the processor's caches.

";

pub const STORMS: &str = "
Sessions that are cached and not asked for are revoked one after another, by
`CustomerSessions::revoke` from a thread on the other core. Two engines with as many sessions take
turns; one is left alone, and nothing is revoked in its turns. A session that shares its stripe of
the revocation table with a revoked one is looked up again; the store is in memory.
";

pub const UNCACHED: &str = "
One request after another in a runtime of one thread; the store is in memory and makes sessions up.
\"A miss\": no token comes twice. \"Twice the capacity\": 200,000 sessions, and places for 100,000.
Ours looks up in a task of its own, with a permit, a time limit and a circuit breaker, and shares
the lookup with other requests for the same token. The others look up in the request itself, and
have none of that. A database takes 100 µs and more for each lookup, in all three.
";

pub const MEMORY: &str = "
Live bytes as the allocator was asked for them. The session is a customer with a name, an e-mail
address and two entries of metadata. quick_cache has 10 % more places than sessions, because its
shards fill unevenly.
";

pub const THREADS: &str = "
One cache, two threads on a core each, with a hot session each or the same one for both. With one
session all threads count the same `Arc`. The floor shares nothing else.
";

pub const SERVERS: &str = "
axum on the loopback with one worker on one core, 32 connections from the other core. \"Core\" is the
processor time a request takes, the kernel's part included. Rounds in which the load did not keep
the server at work are left out, unless there are no others.

axum's `Router::layer` boxes the service and its future, whatever the layer does. No layer can win
that back, so that ours stands beside the floor layer, which is added in the same way.
";

pub const NOT_MEASURED: &str = "
## Not measured

More than two cores; processors other than the one above; allocators other than the system's;
link-time optimisation (`PROFILE=lto benches/run targets` builds with it: fat, one codegen unit);
the time that a revocation takes to other nodes; the stores, which have a program of their own
(`stores`).
";
