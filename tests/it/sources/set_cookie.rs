//! The cookie that a response sets and clears, with the `cookie` crate as the judge.

use axum::{http::HeaderMap, response::IntoResponse as _};
use chrono::{DateTime, TimeDelta, Utc};
use cookie::Cookie;
use customer_session::{
    Clock as _, CustomerData, CustomerSession, SessionCookie, SessionToken, SetCookie,
    StoreErrorKind, TokenFormat, testing::ManualClock,
};
use http::StatusCode;

use super::{add, request, status};
use test_support::one_session;

fn new(name: &str) -> SessionCookie {
    SessionCookie::new(name).expect(name)
}

fn session(token: &str, expires_at: DateTime<Utc>) -> CustomerSession {
    let customer = CustomerData::new("cus_1", "org_1");
    CustomerSession::new("ses_1", SessionToken::new(token), customer, expires_at)
}

fn parsed(header: &SetCookie) -> Cookie<'static> {
    let text = header.header_value().to_str().expect("ASCII").to_owned();
    // Every attribute is known to the judge: it would drop an unknown one, and what follows it.
    let known = [
        "Path=",
        "Domain=",
        "Secure",
        "HttpOnly",
        "SameSite=",
        "Max-Age=",
    ];
    for attribute in text.split("; ").skip(1) {
        assert!(
            known.iter().any(|known| attribute.starts_with(known)),
            "{text}"
        );
    }
    Cookie::parse(text).expect("a cookie")
}

/// All cookies that the settings can describe.
fn all_settings() -> Vec<SessionCookie> {
    let mut all = Vec::new();
    for name in [
        "session",
        "__Host-session",
        "__Secure-session",
        "__Http-s",
        "__Host-Http-s",
    ] {
        for bits in 0_u8..32 {
            let mut cookie = new(name);
            let is_set = |bit: u8| bits & (1 << bit) != 0;
            if is_set(0) {
                cookie = cookie.persistent();
            }
            if is_set(1) {
                cookie = cookie.strict();
            }
            if is_set(2) {
                cookie = cookie.insecure_for_development();
            }
            if is_set(3) && !cookie.name().starts_with("__Host-") {
                cookie = cookie.domain("Shop.Example.com").expect("a domain");
            }
            if is_set(4) && !cookie.name().starts_with("__Host-") {
                cookie = cookie.path("/app").expect("a path");
            }
            all.push(cookie);
        }
    }
    all
}

#[test]
fn set_and_clear_agree_in_all_that_tells_cookies_apart() {
    let now = Utc::now();
    for cookie in all_settings() {
        let session = session("cst_abc", now + TimeDelta::hours(1));
        let set = parsed(&cookie.set_at(&session, now).expect("a cookie"));
        let clear = parsed(&cookie.clear());
        assert_eq!((set.value(), clear.value()), ("cst_abc", ""));
        assert_eq!(clear.max_age(), Some(cookie::time::Duration::ZERO));
        for header in [&set, &clear] {
            assert_eq!(header.name(), cookie.name());
            assert_eq!(header.http_only(), Some(true));
        }
        assert_eq!(set.name(), clear.name());
        assert_eq!(set.domain(), clear.domain());
        assert_eq!(set.path(), clear.path());
        assert_eq!(set.secure(), clear.secure());
        assert_eq!(set.same_site(), clear.same_site());
        // What browsers demand of a prefix, in any case.
        let name = set.name().to_ascii_lowercase();
        if name.starts_with("__") {
            assert_eq!(set.secure(), Some(true), "{set}");
        }
        if name.starts_with("__host-") {
            assert_eq!((set.domain(), set.path()), (None, Some("/")), "{set}");
        }
    }
}

#[test]
fn the_defaults_are_safe_and_each_setting_changes_one_attribute() {
    let session = session("t", Utc::now() + TimeDelta::hours(1));
    let set = |cookie: &SessionCookie| {
        let header = cookie.set(&session).expect("a cookie");
        header.header_value().to_str().expect("ASCII").to_owned()
    };
    let cookie = new("__Secure-s");
    for (cookie, expected) in [
        (
            cookie.clone(),
            "__Secure-s=t; Path=/; Secure; HttpOnly; SameSite=Lax",
        ),
        (
            cookie.clone().strict(),
            "__Secure-s=t; Path=/; Secure; HttpOnly; SameSite=Strict",
        ),
        (
            cookie.clone().path("/a").expect("a path"),
            "__Secure-s=t; Path=/a; Secure; HttpOnly; SameSite=Lax",
        ),
        (
            cookie.clone().domain("EXAMPLE.com").expect("a domain"),
            "__Secure-s=t; Path=/; Domain=example.com; Secure; HttpOnly; SameSite=Lax",
        ),
        (
            cookie.insecure_for_development(),
            "s=t; Path=/; HttpOnly; SameSite=Lax",
        ),
    ] {
        assert_eq!(set(&cookie), expected);
    }
}

#[test]
fn a_persistent_cookie_lives_as_long_as_the_session() {
    let clock = ManualClock::new("2030-01-01T00:00:00Z".parse().expect("a time"));
    let session = session("t", clock.now() + TimeDelta::milliseconds(3_600_900));
    let cookie = new("__Host-session").persistent();
    let max_age = || {
        let header = cookie.set_at(&session, clock.now()).expect("a cookie");
        let max_age = parsed(&header).max_age().expect("a `Max-Age`");
        assert_eq!(max_age.subsec_nanoseconds(), 0);
        max_age.whole_seconds()
    };
    assert_eq!(max_age(), 3600);
    clock.advance(std::time::Duration::from_secs(600));
    assert_eq!(max_age(), 3000);
    clock.advance(std::time::Duration::from_secs(7200));
    assert_eq!(max_age(), 0, "never negative");
    let header = new("session").set(&session).expect("a cookie");
    assert_eq!(
        parsed(&header).max_age(),
        None,
        "until the browser is closed"
    );
    let header = cookie.set_at(&self::session("t", DateTime::<Utc>::MAX_UTC), clock.now());
    assert!(parsed(&header.expect("a cookie")).max_age().is_some());
}

#[test]
fn a_prefix_is_written_exactly_and_its_rules_hold() {
    for name in [
        "__host-session",
        "__HOST-session",
        "__secure-session",
        "__http-session",
        "__Host-http-session",
        "__Host-",
        "__Secure-",
        "__Host-__Secure-a",
        "__Secure-__host-a",
    ] {
        let error = SessionCookie::new(name).expect_err(name).to_string();
        assert!(error.contains("a cookie's prefix"), "{error}");
    }
    for name in ["__Host-session", "__Host-Http-session"] {
        let error = new(name).domain("example.com").expect_err(name);
        assert!(error.to_string().contains("must not have a domain"));
        let error = new(name).path("/app").expect_err(name);
        assert!(error.to_string().contains("must have the path /"));
        new(name).path("/").expect("what it demands");
    }
}

#[test]
fn a_domain_or_path_that_browsers_ignore_is_an_error() {
    for domain in [
        "",
        ".",
        "com",
        "localhost",
        ".example.com",
        "example.com.",
        "a..b",
        "127.0.0.1",
        "[::1]",
        "example.com:80",
        "https://example.com",
        "-a.example",
        "a-.example",
        "a b.example",
        "b\u{fc}cher.example",
        "a.example; Path=/x",
        "a.example\r\nx: y",
    ] {
        let error = new("session").domain(domain).expect_err(domain);
        assert!(error.to_string().contains("the name of a host"), "{error}");
    }
    for path in [
        "",
        "app",
        "/a;b",
        "/a b",
        "/a\n",
        "/\u{e4}",
        &format!("/{}", "a".repeat(1024)),
    ] {
        let error = new("session").path(path).expect_err(path);
        assert!(error.to_string().contains("begin with a slash"), "{error}");
    }
}

#[tokio::test]
async fn a_token_that_a_cookie_cannot_hold_is_an_error_and_others_come_back_unchanged() {
    let now = Utc::now();
    let later = now + TimeDelta::hours(1);
    let cookie = new("session");
    for byte in 0..=u8::MAX {
        let token = format!("a{}b", char::from(byte));
        let header = cookie.set_at(&session(&token, later), now);
        // RFC 6265, section 4.1.1.
        let fits = matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e);
        match header {
            Ok(header) => assert!(fits && parsed(&header).value() == token, "{token:?}"),
            Err(error) => {
                assert!(!fits, "{token:?}");
                assert_eq!(error.kind(), StoreErrorKind::Invalid);
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains(&format!("{token:?}")), "{shown}");
            }
        }
    }
    for (len, fits) in [(0, false), (1, true), (4089, true), (4090, false)] {
        let result = cookie.set(&session(&"a".repeat(len), later));
        assert_eq!(result.is_ok(), fits, "{len}");
    }
    // The layer reads what was set.
    let (_, sessions, issued) = one_session().await;
    let header = cookie.set(&issued).expect("a cookie");
    let text = header.header_value().to_str().expect("ASCII");
    let mut sent = request("/");
    add(&mut sent, "cookie", text.split(';').next().expect("a pair"));
    let layer = sessions.layer().token_from_cookie(&cookie);
    assert_eq!(status(&layer, sent).await, 200);
}

#[test]
fn a_response_with_the_cookie_is_not_stored_and_does_not_show_the_token() {
    let cookie = new("__Host-session");
    let token = TokenFormat::new("cst_").generate();
    let session = session(token.expose(), Utc::now() + TimeDelta::hours(1));
    let set = || cookie.set(&session).expect("a cookie");
    let response = (
        [("cache-control", "public"), ("set-cookie", "theme=dark")],
        (),
    )
        .into_response();
    let response = (set(), response).into_response();
    assert_eq!(response.status(), StatusCode::OK);
    let mut headers = HeaderMap::new();
    set().apply_to(&mut headers);
    for headers in [response.headers(), &headers] {
        assert_eq!(headers["cache-control"], "no-store");
        let last = headers
            .get_all("set-cookie")
            .iter()
            .next_back()
            .expect("a cookie");
        assert_eq!(last, set().header_value());
        assert!(last.is_sensitive());
        assert!(!format!("{headers:?}").contains(token.expose()));
    }
    assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
    let shown = format!("{:?} {:?}", set(), cookie);
    assert!(!shown.contains(token.expose()), "{shown}");
    assert!(cookie.clear().header_value().is_sensitive());
}
