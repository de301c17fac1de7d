//! Sessions and customers as JSON.

use chrono::{DateTime, Utc};
use customer_session::{
    Customer, CustomerData, CustomerKind, CustomerSession, MetadataValue, TokenFormat,
};
use serde_json::{Value, json};

/// A session with every field set, as an API sends it today.
fn full() -> Value {
    json!({
        "created_at": "2030-01-02T03:04:05.678901Z",
        "modified_at": null,
        "id": "7c5b2a80-0f0e-4c5e-9d0a-0a4d5f6b7c8d",
        "token": "acme_cst_token",
        "expires_at": "2030-01-02T04:04:05.678900Z",
        "customer_id": "b2f1f5a4-55c0-4c8d-8b1e-6f7a8b9c0d1e",
        "customer": {
            "id": "b2f1f5a4-55c0-4c8d-8b1e-6f7a8b9c0d1e",
            "created_at": "2029-12-31T23:59:59Z",
            "modified_at": "2030-01-01T00:00:00.000001Z",
            "metadata": {
                "plan": "gold", "seats": 3, "debt": -1, "ratio": 0.5, "whole": 2.0,
                "tiny": 1e-7, "beta": true, "beyond_f64": 9_007_199_254_740_993_i64,
                "beyond_i64": u64::MAX,
            },
            "external_id": "usr_1",
            "email": "jane@example.com",
            "email_verified": true,
            "type": "individual",
            "name": "Jane Doe",
            "billing_name": "Jane D. Ltd",
            "billing_address": {
                "line1": "1 rue de Lyon", "line2": null, "postal_code": "69001",
                "city": "Lyon", "state": null, "country": "FR",
            },
            "tax_id": ["FR00000000000", "eu_vat"],
            "locale": "fr-FR",
            "organization_id": "org_1",
            "default_payment_method_id": "pm_1",
            "deleted_at": null,
            "first_user_event_at": "2030-01-01T12:00:00Z",
            "avatar_url": "https://example.com/jane.png",
        },
    })
}

fn without(value: &Value, keys: &[&str]) -> Value {
    let mut value = value.clone();
    for key in keys {
        value.as_object_mut().expect("an object").remove(*key);
    }
    value
}

#[test]
fn every_known_field_survives_the_round_trip() {
    let session: CustomerSession = serde_json::from_value(full()).expect("a session");
    let mut written = serde_json::to_value(&session).expect("JSON");
    // Chrono writes as few digits as the fraction needs.
    written["expires_at"] = json!("2030-01-02T04:04:05.678900Z");
    assert_eq!(written, full());
    let again: CustomerSession = serde_json::from_value(written).expect("a session");
    assert_eq!(again, session);
}

#[test]
fn numbers_keep_their_kind_and_every_digit() {
    let session: CustomerSession = serde_json::from_value(full()).expect("a session");
    let metadata = &session.customer.metadata;
    assert_eq!(metadata["whole"], MetadataValue::Float(2.0));
    assert_eq!(metadata["seats"], MetadataValue::Integer(3));
    assert_eq!(
        metadata["beyond_f64"],
        MetadataValue::Integer(9_007_199_254_740_993)
    );
    assert_eq!(
        metadata["beyond_i64"],
        MetadataValue::Integer(u64::MAX.into())
    );
    let text = serde_json::to_string(&session).expect("JSON");
    assert!(text.contains("\"beyond_f64\":9007199254740993,"), "{text}");
    assert!(text.contains("\"whole\":2.0"), "{text}");
}

#[test]
fn a_number_that_json_cannot_carry_is_an_error_not_a_loss() {
    let mut data = CustomerData::new("cus_1", "org_1");
    data.metadata.insert("ratio".into(), f64::NAN.into());
    serde_json::to_string(&Customer::from(data)).expect_err("not finite");
}

#[test]
fn camel_case_is_accepted_too() {
    fn camel(value: Value) -> Value {
        match value {
            Value::Object(fields) => fields
                .into_iter()
                .map(|(key, value)| {
                    let mut parts = key.split('_');
                    let first = parts.next().unwrap_or_default().to_owned();
                    let name = parts.fold(first, |name, part| {
                        let (head, tail) = part.split_at(1);
                        name + &head.to_uppercase() + tail
                    });
                    (
                        name,
                        if key == "metadata" {
                            value
                        } else {
                            camel(value)
                        },
                    )
                })
                .collect(),
            other => other,
        }
    }
    let snake: CustomerSession = serde_json::from_value(full()).expect("a session");
    let camel: CustomerSession = serde_json::from_value(camel(full())).expect("a session");
    assert_eq!(camel, snake);
}

#[test]
fn unknown_fields_are_ignored_and_absent_ones_are_null() {
    let mut value = full();
    value["return_url"] = json!(null);
    value["customer_portal_url"] = json!("https://example.com/?token=acme_cst_token");
    value["customer"]["oauth_accounts"] = json!({});
    let session: CustomerSession = serde_json::from_value(value).expect("a session");
    let written = serde_json::to_value(&session).expect("JSON");
    assert!(written.get("customer_portal_url").is_none());

    let all = full();
    let mut value = without(&all, &["modified_at"]);
    value["customer"] = without(
        &all["customer"],
        &[
            "modified_at",
            "metadata",
            "external_id",
            "email",
            "email_verified",
            "type",
            "name",
            "billing_name",
            "billing_address",
            "tax_id",
            "locale",
            "default_payment_method_id",
            "deleted_at",
            "first_user_event_at",
            "avatar_url",
        ],
    );
    let session: CustomerSession = serde_json::from_value(value).expect("a session");
    let created_at = session.customer.created_at;
    let mut expected = CustomerData::new(session.customer_id.as_str(), "org_1");
    expected.created_at = created_at;
    assert_eq!(session.customer, expected.into());

    let missing = without(&all, &["expires_at"]);
    serde_json::from_value::<CustomerSession>(missing).expect_err("a session has an end");
}

#[test]
fn an_unknown_kind_of_customer_is_kept() {
    for (kind, text) in [
        (CustomerKind::Individual, "individual"),
        (CustomerKind::Team, "team"),
        (CustomerKind::Unknown("household".into()), "household"),
    ] {
        assert_eq!(serde_json::to_value(&kind).expect("JSON"), text);
        assert_eq!(
            serde_json::from_value::<CustomerKind>(json!(text)).expect("a kind"),
            kind
        );
    }
}

#[test]
fn a_session_is_live_before_its_end_and_while_its_customer_is() {
    let mut session: CustomerSession = serde_json::from_value(full()).expect("a session");
    let end = session.expires_at;
    let nanosecond = chrono::TimeDelta::nanoseconds(1);
    assert!(session.is_live_at(end - nanosecond));
    assert!(!session.is_live_at(end));
    assert!(!session.is_live_at(DateTime::<Utc>::MAX_UTC));
    let mut data = (*session.customer).clone();
    data.deleted_at = Some(end);
    session.customer = data.into();
    assert!(!session.is_live_at(end - nanosecond));
}

/// Tokens made elsewhere in the same format: prefix, random part, checksum.
#[test]
fn polar_s_token_format_accepts_its_tokens() {
    let format = TokenFormat::polar();
    for good in [
        "polar_cst_00000000000000000000000000000000000003jnQlY",
        "polar_cst_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa2sN54l",
        "polar_cst_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ489CZj",
        "polar_mst_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ489CZj",
    ] {
        assert!(format.matches(good), "{good}");
    }
    for bad in [
        "",
        "polar_cst_",
        "polar_oat_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ489CZj",
        "polar_cst_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ489CZk",
        "polar_cst_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ489CZ",
        "polar_cst_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZzzzzzz",
        "polar_cst_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ_489CZj",
        "POLAR_CST_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ489CZj",
    ] {
        assert!(!format.matches(bad), "{bad}");
    }
    assert!(format.generate().expose().starts_with("polar_cst_"));
    assert!(TokenFormat::any().generate().expose().starts_with("cst_"));
}

/// Compares as JSON, but times as moments: chrono drops trailing zeros of a fraction.
fn same(written: &Value, recorded: &Value, path: &str) {
    match (written, recorded) {
        (Value::Object(written), Value::Object(recorded)) => {
            for (key, written) in written {
                same(
                    written,
                    recorded.get(key).unwrap_or(&Value::Null),
                    &format!("{path}.{key}"),
                );
            }
            let ignored = ["return_url", "customer_portal_url"];
            for key in recorded
                .keys()
                .filter(|key| !ignored.contains(&key.as_str()))
            {
                assert!(written.contains_key(key), "{path}.{key} was lost");
            }
        }
        (Value::String(written), Value::String(recorded)) if path.ends_with("_at") => {
            let parse = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
            assert_eq!(parse(written), parse(recorded), "{path}");
        }
        _ => assert_eq!(written, recorded, "{path}"),
    }
}

/// Reads and writes what a Polar server answered, where recordings are given: a folder with
/// `exchanges/*.json` and `token_vectors.json`, named by `POLAR_RECORDINGS`.
#[test]
fn recordings_from_a_folder_survive_the_round_trip() {
    let Ok(folder) = std::env::var("POLAR_RECORDINGS") else {
        println!("POLAR_RECORDINGS is not set: no recordings");
        return;
    };
    let read = |path: &std::path::Path| -> Value {
        serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON")
    };
    let folder = std::path::Path::new(&folder);
    let (mut sessions, mut customers, mut tokens) = (0, 0, 0);
    for entry in std::fs::read_dir(folder.join("exchanges")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let body = read(&path)["response"]["body"].take();
        if body.get("token").is_some() {
            let session: CustomerSession = serde_json::from_value(body.clone()).expect("a session");
            same(&serde_json::to_value(&session).expect("JSON"), &body, "");
            assert!(TokenFormat::polar().matches(session.token.expose()));
            sessions += 1;
        } else if body.get("organization_id").is_some() {
            let customer: Customer = serde_json::from_value(body.clone()).expect("a customer");
            same(&serde_json::to_value(&customer).expect("JSON"), &body, "");
            customers += 1;
        }
    }
    let vectors = read(&folder.join("token_vectors.json"));
    for set in ["vectors", "vectors_zero_padded_checksum"] {
        for vector in vectors[set].as_array().expect("vectors") {
            assert!(TokenFormat::polar().matches(vector["token"].as_str().expect("text")));
            tokens += 1;
        }
    }
    println!("{sessions} sessions, {customers} customers, {tokens} tokens");
    assert!(sessions > 0 && customers > 0 && tokens > 0);
}
