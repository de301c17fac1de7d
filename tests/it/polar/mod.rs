//! `PolarStore` and Polar's webhooks, against a server that answers as Polar does.

#[cfg(unix)]
mod example;
mod fake_polar;
mod recordings;
mod store;
mod webhooks;
