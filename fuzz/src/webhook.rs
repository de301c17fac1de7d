//! The verification of Polar's webhooks (Standard Webhooks), against HMAC by hand.

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD},
};
use chrono::{DateTime, Utc};
use customer_session::{
    polar::{WebhookError, Webhooks},
    testing::ManualClock,
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue};
use sha2::Sha256;

use crate::random::{Random, Target};

/// Longest id of a delivery, in bytes.
const MAX_ID: usize = 256;

const NOW: i64 = 1_900_000_000;
const SECRETS: [&str; 4] = [
    "whsec_MDEyMzQ1Njc4OWFiY2RlZg==",
    "whsec_YW5vdGhlciBzZWNyZXQ",
    "polar_whs_0123456789abcdef",
    "whsec_0123456789abcdef-",
];
const HEADERS: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];

/// Bodies, and whether they are events.
const BODIES: [(&str, bool); 5] = [
    (
        r#"{"type":"order.created","timestamp":"2030-03-17T17:46:40Z","data":{}}"#,
        true,
    ),
    (
        r#"{"type":"x","timestamp":"2030-03-17T17:46:40Z","data":{"id":"1"}}"#,
        true,
    ),
    (r#"{"type":"x"}"#, false),
    ("", false),
    ("null", false),
];

const WORDS: &[&str] = &[
    "v1,",
    "v1a,",
    "v2,",
    " ",
    "  ",
    ",",
    "=",
    "-",
    "+",
    "0",
    "1900000000",
    "whsec_",
    ".",
    "msg_1",
    "\t",
    "\u{e4}",
];

pub fn target() -> Target {
    let now = DateTime::from_timestamp(NOW, 0).expect("a time");
    Box::new(move |random| {
        let given: Vec<_> = (0..1 + random.below(2))
            .map(|_| random.pick(&SECRETS))
            .collect();
        let webhooks = Webhooks::new(given[0])
            .expect("a secret")
            .clock(ManualClock::new(now));
        let webhooks = given[1..].iter().fold(webhooks, |webhooks, secret| {
            webhooks.or(secret).expect("a secret")
        });
        let (body, is_event) = random.pick(&BODIES);
        let delivery = delivery(random, body.as_bytes());
        let headers = headers(random, &delivery);
        let expected = reference(&given, &headers, &delivery.2);
        let is_event = is_event && delivery.2 == body.as_bytes();
        let verified = webhooks.verify(&headers, &delivery.2);
        let shown = format!(
            "{headers:?} {:?} {given:?}",
            String::from_utf8_lossy(&delivery.2)
        );
        match &verified {
            Ok(event) => {
                assert!(expected.is_signed && expected.is_in_time, "{shown}");
                assert_eq!(
                    Some(event.id.as_bytes()),
                    headers.get("webhook-id").map(|id| id.as_bytes())
                );
                assert!(
                    webhooks.verify(&headers, &delivery.2).is_err(),
                    "twice: {shown}"
                );
            }
            Err(WebhookError::OutOfTime) => assert!(expected.is_signed, "{shown}"),
            Err(WebhookError::WrongSignature) => assert!(!expected.is_signed, "{shown}"),
            Err(_) => {}
        }
        if expected.is_signed && expected.is_in_time && is_event {
            assert!(verified.is_ok(), "{verified:?}: {shown}");
        }
    })
}

/// Makes the id, the timestamp and the body that are signed.
fn delivery(random: &mut Random, body: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let mut id = random.text(&["msg_", "1", "a", "."], 4).into_bytes();
    if random.one_in(50) {
        id.extend(vec![b'a'; 200 + random.below(200)]);
    }
    let late = random.pick(&[
        0,
        1,
        -1,
        299,
        300,
        301,
        -299,
        -300,
        -301,
        86_400,
        -1_900_000_001,
    ]);
    let mut timestamp = (NOW + late).to_string().into_bytes();
    let mut body = body.to_vec();
    if random.one_in(6) {
        random.mutate(&mut id, WORDS);
        random.mutate(&mut timestamp, WORDS);
        random.mutate(&mut body, WORDS);
    }
    (id, timestamp, body)
}

/// Makes the headers of a delivery: signed by one of the secrets, perhaps spoiled afterwards.
fn headers(random: &mut Random, delivery: &(Vec<u8>, Vec<u8>, Vec<u8>)) -> HeaderMap {
    let mut signatures: Vec<String> = (0..random.below(3))
        .map(|_| random.text(WORDS, 3))
        .collect();
    if !random.one_in(5) {
        let keys = keys(random.pick(&SECRETS));
        let key = &keys[random.below(keys.len())];
        let place = random.below(signatures.len() + 1);
        signatures.insert(place, format!("v1,{}", signature(key, delivery)));
    }
    let mut values = [
        delivery.0.clone(),
        delivery.1.clone(),
        signatures.join(" ").into_bytes(),
    ];
    if random.one_in(4) {
        let place = random.below(3);
        random.mutate(&mut values[place], WORDS);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in HEADERS.into_iter().zip(values) {
        let times = if random.one_in(20) {
            random.below(3)
        } else {
            1
        };
        for _ in 0..times {
            headers.extend(
                HeaderValue::from_bytes(&value)
                    .ok()
                    .map(|value| (http::HeaderName::from_static(name), value)),
            );
        }
    }
    headers
}

/// Returns the keys of a secret: itself, and what its base64 stands for.
fn keys(secret: &str) -> Vec<Vec<u8>> {
    let base64 = secret.strip_prefix("whsec_");
    let decoded = base64.and_then(|base64| {
        let unpadded = BASE64_STANDARD_NO_PAD.decode(base64);
        BASE64_STANDARD.decode(base64).or(unpadded).ok()
    });
    [secret.as_bytes().to_vec()]
        .into_iter()
        .chain(decoded)
        .collect()
}

fn signature(key: &[u8], (id, timestamp, body): &(Vec<u8>, Vec<u8>, Vec<u8>)) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(&[id, &b"."[..], timestamp, b".", body].concat());
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}

struct Expected {
    is_signed: bool,
    is_in_time: bool,
}

fn reference(secrets: &[&str], headers: &HeaderMap, body: &[u8]) -> Expected {
    let values = HEADERS.map(|name| {
        let all: Vec<_> = headers.get_all(name).iter().collect();
        match all[..] {
            [one] => one.to_str().ok(),
            _ => None,
        }
    });
    let refused = Expected {
        is_signed: false,
        is_in_time: false,
    };
    let [Some(id), Some(timestamp), Some(signatures)] = values else {
        return refused;
    };
    let is_number = !timestamp.is_empty() && timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let sent: Option<DateTime<Utc>> = timestamp
        .parse()
        .ok()
        .filter(|_| is_number)
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let Some(sent) = sent else {
        return refused;
    };
    if id.is_empty() || id.len() > MAX_ID {
        return refused;
    }
    let signed = (
        id.as_bytes().to_vec(),
        timestamp.as_bytes().to_vec(),
        body.to_vec(),
    );
    let mut keys = secrets.iter().flat_map(|secret| keys(secret));
    let is_signed = keys.any(|key| {
        let expected = format!("v1,{}", signature(&key, &signed));
        signatures.split(' ').any(|given| given == expected)
    });
    Expected {
        is_signed,
        is_in_time: (sent.timestamp() - NOW).abs() <= 300,
    }
}
