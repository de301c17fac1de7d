//! Lookups of `PolarStore` over real connections.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use customer_session::{
    CustomerId, CustomerKind, CustomerSessions, MetadataValue, SessionStore as _, SessionToken,
    StoreErrorKind, TokenFormat,
    polar::{PolarStore, SessionOptions},
};
use serde_json::json;

use super::{
    fake_polar::{
        CREATE, CUSTOMERS, FOREIGN, FakePolar, Fault, INTROSPECT, JANE, ME, OUR_ORGANIZATION,
        OUR_TOKEN, PLAIN, TEAM,
    },
    found,
};

#[tokio::test]
async fn a_session_has_every_field_of_its_customer() {
    let polar = FakePolar::start().await;
    let (store, token) = (polar.store(), polar.customer_token(JANE));
    let session = found(&store, &token).await;
    assert_eq!(session.token, token);
    assert_eq!(session.customer_id.as_str(), JANE);

    let customer = &session.customer;
    assert_eq!(customer.id.as_str(), JANE);
    assert_eq!(customer.organization_id.as_str(), OUR_ORGANIZATION);
    assert_eq!(customer.external_id.as_deref(), Some("usr_1"));
    assert_eq!(customer.email.as_deref(), Some("jane@example.org"));
    let metadata = &customer.metadata;
    let exact = MetadataValue::Integer(9_007_199_254_740_993);
    assert_eq!(metadata["beyond_f64"], exact);
    assert_eq!(metadata["whole"], MetadataValue::Float(2.0));
    assert_eq!(metadata["plan"], "gold".into());
    let address = customer.billing_address.as_ref().expect("an address");
    assert_eq!(address.country, "FR");
    let tax_id = customer.tax_id.as_ref().expect("a tax id");
    assert_eq!(tax_id.format, "eu_vat");
}

#[tokio::test]
async fn a_lookup_is_two_calls_at_once_and_one_more() {
    let polar = FakePolar::start().await;
    found(&polar.store(), &polar.customer_token(JANE)).await;
    let mut calls = polar.calls();
    calls[..2].sort();
    let expected = [
        "GET /v1/customer-portal/customer-session/introspect".to_owned(),
        "GET /v1/customer-portal/customers/me".to_owned(),
        format!("GET /v1/customers/{JANE}"),
    ];
    assert_eq!(calls, expected);
}

#[tokio::test]
async fn fields_that_polar_omits_are_derived_and_stable() {
    let polar = FakePolar::start().await;
    let token = polar.customer_token(JANE);
    let one = found(&polar.store(), &token).await;
    let other = found(&polar.store(), &token).await;
    assert_eq!(one, other);
    assert!(one.id.as_str().starts_with("polar-"), "{}", one.id);
    assert_eq!(one.created_at, one.expires_at - TimeDelta::hours(1));
    assert_eq!(one.modified_at, None);

    let half = polar.builder().session_ttl(Duration::from_secs(1800));
    let session = found(&half.build().expect("built"), &token).await;
    assert_eq!(
        session.created_at,
        session.expires_at - TimeDelta::minutes(30)
    );
    let endless = polar.builder().session_ttl(Duration::MAX);
    found(&endless.build().expect("built"), &token).await;

    let again = polar.customer_token(JANE);
    assert_ne!(found(&polar.store(), &again).await.id, one.id);
}

#[tokio::test]
async fn customers_with_few_fields_and_teams_are_let_in() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let plain = found(&store, &polar.customer_token(PLAIN)).await;
    assert_eq!(plain.customer.name, None);
    assert!(plain.customer.metadata.is_empty());

    // A member stands for the customer. A team has no e-mail address, whatever its token.
    let member = found(&store, &polar.member_token(JANE)).await;
    assert_eq!(member.customer_id.as_str(), JANE);
    for token in [polar.member_token(TEAM), polar.customer_token(TEAM)] {
        let team = found(&store, &token).await;
        assert_eq!(team.customer.kind, CustomerKind::Team);
        assert_eq!(team.customer.email, None);
    }
}

#[tokio::test]
async fn a_live_token_of_another_organization_is_refused() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let asked = format!("GET /v1/customers/{FOREIGN}");
    let theirs = [polar.customer_token(FOREIGN), polar.member_token(FOREIGN)];
    for (number, token) in theirs.iter().enumerate() {
        assert_eq!(store.find(token).await.expect("Polar answers"), None);
        // Asked once, whatever the token of the customer.
        assert_eq!(polar.calls().contains(&asked), number == 0);
    }
}

#[tokio::test]
async fn expired_and_unknown_sessions_are_not_found() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let expired = polar.sign_in(JANE, "polar_cst_", TimeDelta::seconds(-1));
    let deleted = polar.customer_token(PLAIN);
    polar.delete(PLAIN);
    for token in [expired, deleted, TokenFormat::polar().generate()] {
        assert_eq!(store.find(&token).await.expect("Polar answers"), None);
        assert_eq!(polar.calls().len(), 2, "the customer is not asked for");
    }
    // The customer is deleted between the calls; one refusal is enough.
    let token = polar.customer_token(JANE);
    for (path, fault) in [
        (CUSTOMERS, Fault::status(410)),
        (CUSTOMERS, Fault::not_found()),
        (ME, Fault::invalid_token()),
        (INTROSPECT, Fault::invalid_token()),
    ] {
        polar.fault(path, fault);
        assert_eq!(store.find(&token).await.expect("Polar answers"), None);
        polar.clear_faults();
    }
    // Also when the other call fails.
    polar.fault(INTROSPECT, Fault::down());
    polar.fault(ME, Fault::invalid_token());
    assert_eq!(store.find(&token).await.expect("no error"), None);
}

/// An answer that was wrong is not kept for longer than it must be.
#[tokio::test]
async fn a_customer_who_was_not_found_is_asked_for_again() {
    let polar = FakePolar::start().await;
    let (store, token) = (polar.store(), polar.customer_token(JANE));
    polar.fault(CUSTOMERS, Fault::not_found());
    assert_eq!(store.find(&token).await.expect("no error"), None);
    polar.clear_faults();
    polar.calls();
    assert_eq!(store.find(&token).await.expect("no error"), None);
    assert_eq!(polar.calls().len(), 2, "it is kept in mind");
    let created = store
        .create(CustomerId::from(JANE), SessionOptions::new())
        .await;
    found(&store, &created.expect("ours").session.token).await;
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_the_other_call() {
    let polar = FakePolar::start().await;
    let store = polar
        .builder()
        .timeout(Duration::ZERO)
        .build()
        .expect("built");
    for (refuses, hangs) in [(ME, INTROSPECT), (INTROSPECT, ME)] {
        polar.fault(refuses, Fault::invalid_token());
        polar.fault(hangs, Fault::Hang);
        let token = polar.customer_token(JANE);
        let found = tokio::time::timeout(Duration::from_secs(5), store.find(&token)).await;
        assert_eq!(found.expect("at once").expect("no error"), None);
    }
}

#[tokio::test]
async fn a_token_that_polar_cannot_have_issued_is_not_looked_up() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let token = polar.customer_token(JANE);
    let (rest, last) = token.expose().split_at(52);
    let changed = format!("{rest}{}", if last == "0" { "1" } else { "0" });
    for garbage in [changed.as_str(), OUR_TOKEN, "", "undefined"] {
        let found = store.find(&SessionToken::new(garbage)).await;
        assert_eq!(found.expect("no outage"), None, "{garbage}");
    }
    assert_eq!(store.token_format(), TokenFormat::polar());
    assert!(polar.calls().is_empty());
}

#[tokio::test]
async fn a_new_kind_of_token_is_a_setting() {
    let polar = FakePolar::start().await;
    let token = polar.sign_in(JANE, "polar_xst_", TimeDelta::hours(1));
    let refused = polar.store().find(&token).await;
    assert_eq!(refused.expect("no call is made"), None);
    assert!(polar.calls().is_empty());
    let format = TokenFormat::polar().or("polar_xst_");
    let store = polar.builder().token_format(format.clone()).build();
    let store = store.expect("built");
    found(&store, &token).await;
    assert_eq!(store.token_format(), format);
    // The layer screens by the same format.
    let sessions = CustomerSessions::builder(store).build();
    sessions.authenticate(&token).await.expect("let in");
}

/// Polar takes whole numbers of any size as metadata.
#[tokio::test]
async fn a_number_beyond_every_float_does_not_shut_a_customer_out() {
    let polar = FakePolar::start().await;
    let (store, token) = (polar.store(), polar.customer_token(JANE));
    for number in ["9".repeat(400), "-1e400".to_owned()] {
        let max = if number.starts_with('-') {
            f64::MIN
        } else {
            f64::MAX
        };
        let max = MetadataValue::Float(max);
        // JSON as text, since the stand-in cannot hold the number either.
        let customer = format!(
            r#"{{"id":"{JANE}","created_at":"2025-01-01T00:00:00Z","organization_id":"{OUR_ORGANIZATION}",
                "metadata":{{"plan":"gold","n":{number}}}}}"#
        );
        polar.fault(CUSTOMERS, Fault::body(customer.clone()));
        let session = found(&store, &token).await;
        assert_eq!(session.customer.metadata["n"], max);
        assert_eq!(session.customer.metadata["plan"], "gold".into());
        serde_json::to_string(&session.customer).expect("it can be written");

        let session = format!(
            r#"{{"id":"s","created_at":"2025-01-01T00:00:00Z","expires_at":"2035-01-01T00:00:00Z",
                "token":"{}","customer_id":"{JANE}","customer":{customer}}}"#,
            token.expose()
        );
        polar.fault(CREATE, Fault::body(session));
        let created = store.create(CustomerId::from(JANE), SessionOptions::new());
        let created = created.await.expect("created");
        assert_eq!(created.session.customer.metadata["n"], max);
    }
}

#[tokio::test]
async fn a_customer_id_cannot_change_the_path() {
    let polar = FakePolar::start().await;
    let (store, token) = (polar.store(), polar.customer_token(JANE));
    for name in [
        "..",
        "../organizations",
        "a?b=c",
        "",
        "%2e%2e",
        &format!("{JANE}/"),
        "é",
    ] {
        polar.fault(ME, Fault::body(json!({ "id": name }).to_string()));
        let error = store.find(&token).await.expect_err("no name");
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{name}");
        assert_eq!(polar.calls().len(), 2, "{name}");
    }
}

#[tokio::test]
async fn a_base_url_may_have_a_path_of_its_own() {
    let polar = FakePolar::start().await;
    for (suffix, prefix) in [
        ("", ""),
        ("/", ""),
        ("/proxy", "/proxy"),
        ("/proxy/", "/proxy"),
    ] {
        let store = polar.builder().base_url(format!("{}{suffix}", polar.url()));
        let _ = store
            .build()
            .expect("built")
            .find(&polar.customer_token(JANE))
            .await;
        let calls = polar.calls();
        assert!(
            calls.contains(&format!("GET {prefix}{ME}")),
            "{suffix}: {calls:?}"
        );
    }
}

#[tokio::test]
async fn a_thousand_requests_for_one_cold_token_are_three_calls() {
    let polar = FakePolar::start().await;
    polar.delay(Duration::from_millis(100));
    let sessions = Arc::new(CustomerSessions::builder(polar.store()).build());
    let token = polar.customer_token(JANE);
    let tasks: Vec<_> = (0..1000)
        .map(|_| {
            let (sessions, token) = (Arc::clone(&sessions), token.clone());
            tokio::spawn(async move { sessions.authenticate(&token).await })
        })
        .collect();
    for task in tasks {
        let session = task.await.expect("no panic").expect("let in");
        assert_eq!(session.customer_id.as_str(), JANE);
    }
    assert_eq!(polar.calls().len(), 3);
    sessions.authenticate(&token).await.expect("let in");
    assert_eq!(polar.calls().len(), 0, "a hit makes no call");
}

/// Compares medians of long calls, since other tests keep the machine busy meanwhile.
#[tokio::test]
async fn a_cold_token_takes_two_calls_time() {
    let polar = FakePolar::start().await;
    polar.delay(Duration::from_millis(100));
    let store = polar.store();
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let (mut calls, mut lookups) = (Vec::new(), Vec::new());
    // The first ones open connections.
    for round in 0..13 {
        let token = polar.customer_token(JANE);
        let start = Instant::now();
        let call = client
            .get(format!("{}{ME}", polar.url()))
            .bearer_auth(token.expose());
        let answer = call.send().await.expect("an answer");
        answer.bytes().await.expect("a body");
        let call = start.elapsed();
        let start = Instant::now();
        found(&store, &token).await;
        if round >= 2 {
            calls.push(call);
            lookups.push(start.elapsed());
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1000.0
    };
    let (call, lookup) = (median(&mut calls), median(&mut lookups));
    let ratio = lookup / call;
    println!("one call {call:.1} ms, a cold token {lookup:.1} ms: {ratio:.2} x");
    assert!(ratio <= 2.2, "{ratio}");
}

#[test]
fn a_bad_configuration_is_an_error() {
    let built = |token: &str, url: &str| {
        let built = PolarStore::builder(token).base_url(url).build();
        built.map(|store| format!("{store:?}"))
    };
    for token in ["", " ", "polar_oat_x\n", "polar oat", "é"] {
        let error = built(token, PolarStore::PRODUCTION).expect_err(token);
        let error = error.to_string();
        assert_eq!(error.contains("is empty"), token.is_empty());
        assert!(error.contains("access token"), "{error}");
    }
    for (token, says) in [
        ("polar_pat_8Fk2", "personal access token"),
        ("polar_cst_8Fk2", "customer's session"),
        ("polar_mst_8Fk2", "member's session"),
        ("whsec_8Fk2", "secret of a webhook"),
        ("polar_whs_8Fk2", "secret of a webhook"),
        ("polar_at_o_8Fk2", "begins with polar_oat_"),
        ("8Fk2", "accept_any_access_token"),
    ] {
        let error = built(token, PolarStore::PRODUCTION).expect_err(token);
        let error = error.to_string();
        assert!(error.contains(says) && !error.contains("8Fk2"), "{error}");
        let any = PolarStore::builder(token).accept_any_access_token();
        any.build().expect("a proxy's");
    }
    for url in [
        "http://api.polar.sh",
        "http://127.0.0.1.example.org",
        "http://localhost.example.org",
        "http://10.0.0.1",
        "http://[::2]:80",
    ] {
        let error = built("polar_oat_t", url).expect_err(url);
        let error = error.to_string();
        assert!(error.contains("must be https"), "{url}: {error}");
    }
    for url in [
        "",
        "api.polar.sh",
        "ftp://api.polar.sh",
        "file:///etc/passwd",
        "https://user@api.polar.sh",
        "https://:word@api.polar.sh",
        "https://api.polar.sh?a=b",
        "https://api.polar.sh#a",
    ] {
        let error = built("polar_oat_t", url).expect_err(url);
        let error = error.to_string();
        assert!(error.contains("must look like"), "{url}: {error}");
    }
    for (url, says) in [
        ("https://polar.sh", "https://api.polar.sh"),
        ("https://polar.sh/dashboard/acme", "https://api.polar.sh"),
        ("https://sandbox.polar.sh/", "https://sandbox-api.polar.sh"),
        ("https://api.polar.sh/v1", "must not end with /v1"),
        ("https://api.polar.sh/v1/", "must not end with /v1"),
        ("http://localhost:8000/proxy/v1", "must not end with /v1"),
    ] {
        let error = built("polar_oat_t", url).expect_err(url);
        assert!(error.to_string().contains(says), "{url}: {error}");
    }
    for url in [
        PolarStore::PRODUCTION,
        PolarStore::SANDBOX,
        "http://localhost:8000",
        "http://127.8.0.1",
        "http://[::1]:8000/",
        "https://proxy.example.org/polar",
        "https://proxy.example.org/v1/polar",
        "https://proxy.example.org/polarv1",
    ] {
        let shown = built("polar_oat_secret", url).expect(url);
        assert!(!shown.contains("secret"), "{shown}");
    }
    let builder = PolarStore::builder("polar_oat_secret").base_url("https://u:secret@polar.sh");
    assert!(!format!("{builder:?}").contains("secret"));
}
