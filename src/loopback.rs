//! Which hosts are this machine itself: what is sent to them crosses no network.

use std::net::IpAddr;

/// Returns `true` for `localhost` and for loopback addresses, IPv6 with brackets or without.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_told_from_others() {
        for host in ["localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "db",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1",
            "[2001:db8::1]",
            "0.0.0.0",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
