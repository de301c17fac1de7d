//! The check of a `PolarStore` when the service starts.

use customer_session::{StoreErrorKind, polar::PolarStore};

use super::{
    error_text,
    fake_polar::{CUSTOMERS, FakePolar, Fault, OUR_ORGANIZATION, OUR_TOKEN},
};

#[tokio::test]
async fn a_store_that_works_passes_the_check_by_one_call() {
    let polar = FakePolar::start().await;
    let ours = polar.builder().organization(OUR_ORGANIZATION).build();
    for store in [polar.store(), ours.expect("built")] {
        store.check().await.expect("nothing is wrong");
        assert_eq!(polar.calls(), [format!("GET {CUSTOMERS}")]);
    }
    // An organization without customers cannot be told from another.
    polar.fault(CUSTOMERS, Fault::body(r#"{"items":[]}"#));
    let other = polar.builder().organization("another").build();
    let other = other.expect("built");
    other.check().await.expect("it cannot tell");
    polar.clear_faults();
    let text = error_text(&other.check().await.expect_err("another organization"));
    assert!(text.contains(OUR_ORGANIZATION), "{text}");
    assert!(text.contains("correct `organization`"), "{text}");
}

#[tokio::test]
async fn a_failed_check_says_what_to_do() {
    let polar = FakePolar::start().await;
    let unknown = PolarStore::builder("polar_oat_unknown").base_url(polar.url());
    let error = unknown.build().expect("built").check().await;
    let text = error_text(&error.expect_err("it is unknown"));
    assert!(
        text.contains("check the organization access token"),
        "{text}"
    );

    let store = polar.store();
    let no_scope = r#"{"error":"insufficient_scope","error_description":"No."}"#;
    let no_path = r#"{"detail":"Not Found"}"#;
    let answer = |status, body: &str| Fault::Answer(status, Vec::new(), body.into());
    for (fault, says) in [
        (answer(403, no_scope), "check the scopes"),
        (answer(404, no_path), "check the base URL"),
        (answer(404, "<html>404</html>"), "check the base URL"),
        (Fault::redirect("/elsewhere"), "check the base URL"),
        (Fault::too_many(60), "rate limit"),
    ] {
        polar.fault(CUSTOMERS, fault);
        let error = store.check().await.expect_err(says);
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{says}");
        let text = error_text(&error);
        assert!(text.contains(says), "{text}");
        assert!(text.contains("checking the access to Polar"), "{text}");
        assert!(!text.contains(OUR_TOKEN), "{text}");
    }
}
