//! Sessions that `PolarStore` creates.

use customer_session::{
    CustomerId, MetadataValue, StoreErrorKind, TokenFormat,
    polar::{CreateError, CustomerRef, SessionOptions},
};
use serde_json::json;

use super::{
    error_text,
    fake_polar::{CREATE, FOREIGN, FakePolar, Fault, JANE},
    found,
};

#[tokio::test]
async fn a_created_session_has_every_field() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let options = SessionOptions::new().return_url("https://example.org/account");
    let created = store.create(CustomerRef::external("usr_1"), options).await;
    let created = created.expect("created");
    assert_eq!(
        polar.posted(),
        [json!({ "external_customer_id": "usr_1", "return_url": "https://example.org/account" })]
    );
    assert_eq!(polar.calls(), [format!("POST {CREATE}")]);
    let session = &created.session;
    assert_eq!(session.id.as_str(), "1d0c6a52-7b1e-4c9d-8a2f-4e5d6c7b8a90");
    assert_eq!(session.customer.external_id.as_deref(), Some("usr_1"));
    let whole = MetadataValue::Float(2.0);
    assert_eq!(session.customer.metadata["whole"], whole);
    assert_eq!(
        created.return_url.as_deref(),
        Some("https://example.org/account")
    );
    let portal = created.customer_portal_url.as_ref().expect("a URL");
    assert!(portal.expose().ends_with(session.token.expose()));
    let shown = format!("{created:?}");
    assert!(!shown.contains(session.token.expose()), "{shown}");

    let same = found(&store, &session.token).await;
    assert_eq!(same.expires_at, session.expires_at);
    assert_eq!(same.customer, session.customer);

    let options = SessionOptions::new().member_id("m").external_member_id("e");
    let by_id = store.create(CustomerId::from(JANE), options).await;
    by_id.expect("created");
    let expected = json!({ "customer_id": JANE, "member_id": "m", "external_member_id": "e" });
    assert_eq!(polar.posted(), [expected]);
}

#[tokio::test]
async fn fields_that_polar_rejects_are_named() {
    let polar = FakePolar::start().await;
    let store = polar.store();
    let refused = |customer: CustomerRef| {
        let store = store.clone();
        async move {
            match store.create(customer, SessionOptions::new()).await {
                Err(CreateError::Invalid(errors)) => errors,
                other => panic!("{other:?}"),
            }
        }
    };
    // Another organization's customer is unknown.
    for (customer, field) in [
        (CustomerRef::from(&CustomerId::from(FOREIGN)), "customer_id"),
        (CustomerRef::external("usr_0"), "external_customer_id"),
    ] {
        let errors = refused(customer).await;
        assert_eq!(errors[0].field, field);
        assert_eq!(errors[0].message, "Customer does not exist.");
        let text = CreateError::Invalid(errors).to_string();
        assert!(text.contains(field), "{text}");
    }
    // Polar reads what does not fit its schema as each kind of request in turn.
    let (by_id, by_external) = ("SessionCustomerIDCreate", "SessionCustomerExternalIDCreate");
    let detail = json!([
        { "type": "x", "loc": ["body", by_id, "return_url"], "msg": "No URL." },
        { "type": "x", "loc": ["body", by_id, "customer_id"], "msg": "Field required" },
        { "type": "x", "loc": ["body", by_external, "return_url"], "msg": "No URL." },
        { "type": "x", "loc": ["body", by_external, "return_url"], "msg": "No URL." },
        { "type": "x", "loc": ["body", "items", 3, "id"], "msg": "No." },
    ]);
    let body = json!({ "detail": detail }).to_string();
    polar.fault(CREATE, Fault::Answer(422, Vec::new(), body.into_bytes()));
    let errors = refused(CustomerRef::external("usr_1")).await;
    let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, ["return_url", "items.3.id"]);

    // Anything else is an outage, and shows nothing of the answer.
    let secret = TokenFormat::polar().generate();
    let odd = json!({ "token": secret.expose(), "id": [secret.expose()] }).to_string();
    for (kind, fault) in [
        (StoreErrorKind::Unavailable, Fault::down()),
        (StoreErrorKind::Unavailable, Fault::status(401)),
        (StoreErrorKind::Unavailable, Fault::status(403)),
        (StoreErrorKind::Unavailable, Fault::status(422)),
        (StoreErrorKind::Unavailable, Fault::redirect(CREATE)),
        (StoreErrorKind::Corrupt, Fault::body("")),
        (StoreErrorKind::Corrupt, Fault::body(odd)),
    ] {
        polar.fault(CREATE, fault.clone());
        let customer = CustomerRef::external("usr_1");
        let created = store.create(customer, SessionOptions::new()).await;
        let Err(CreateError::Store(error)) = created else {
            panic!("{fault:?}: {created:?}");
        };
        let text = error_text(&error);
        assert_eq!(error.kind(), kind, "{fault:?}: {text}");
        assert!(!text.contains(secret.expose()), "{text}");
    }
}
