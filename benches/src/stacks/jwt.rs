//! jwt-authorizer: checks a signature instead of a session. Nothing can be revoked.

use std::convert::Infallible;

use axum::{extract::Request, response::Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::StatusCode;
use jsonwebtoken::{Algorithm, EncodingKey, Header, TokenData, encode};
use jwt_authorizer::{AuthError, IntoLayer as _, JwtAuthorizer, RegisteredClaims, Validation};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use serde::Serialize;
use tower::Layer as _;

use super::{
    contender::{Contender, always},
    names::HS256,
    service::{Status, answer, refusal, served},
};
use crate::scene::{Scene, block_on, with_bearer};

/// The claims of a usual issuer. They are read as the library's own `RegisteredClaims`.
#[derive(Serialize)]
struct Claims {
    iss: &'static str,
    sub: String,
    aud: &'static str,
    exp: i64,
    nbf: i64,
    iat: i64,
    jti: String,
}

const ISSUER: &str = "https://issuer.example.com";
const AUDIENCE: &str = "https://api.example.com";

pub struct Jwt;

impl Jwt {
    pub fn hs256(scene: &Scene) -> Contender {
        const SECRET: &str = "thirty-two bytes of a secret key";
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        Self::hit(
            HS256,
            JwtAuthorizer::from_secret(SECRET),
            &sign(scene, Algorithm::HS256, &key),
        )
    }

    pub fn ed25519(scene: &Scene) -> Contender {
        let private = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("randomness");
        let pair = Ed25519KeyPair::from_pkcs8(private.as_ref()).expect("a key");
        // The fixed beginning of an Ed25519 key in DER: RFC 8410, section 10.1.
        let mut public = vec![0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
        public.extend(pair.public_key().as_ref());
        let public = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(public)
        );
        let key = EncodingKey::from_ed_der(private.as_ref());
        Self::hit(
            "jwt-authorizer EdDSA",
            JwtAuthorizer::from_ed_pem_text(&public),
            &sign(scene, Algorithm::EdDSA, &key),
        )
    }

    fn hit(name: &str, authorizer: JwtAuthorizer, token: &str) -> Contender {
        let authorizer = authorizer.validation(Validation::new().iss(&[ISSUER]).aud(&[AUDIENCE]));
        let authorizer = block_on(authorizer.build()).expect("a key");
        let service = authorizer
            .into_layer()
            .layer(tower::service_fn(reads_claims));
        let headers = always(with_bearer(token));
        Contender::new(name, served(service, StatusCode::OK), headers)
    }
}

fn sign(scene: &Scene, algorithm: Algorithm, key: &EncodingKey) -> String {
    let session = scene.store.session(scene.hot()).expect("known");
    let claims = Claims {
        iss: ISSUER,
        sub: session.customer_id.to_string(),
        aud: AUDIENCE,
        exp: session.expires_at.timestamp(),
        nbf: session.created_at.timestamp(),
        iat: session.created_at.timestamp(),
        jti: session.id.to_string(),
    };
    encode(&Header::new(algorithm), &claims, key).expect("signed")
}

/// jwt-authorizer is built on an older axum, and needs its errors to become responses.
struct JwtResponse(Response);

impl From<AuthError> for JwtResponse {
    fn from(_: AuthError) -> Self {
        Self(refusal())
    }
}

impl Status for JwtResponse {
    fn status(&self) -> StatusCode {
        self.0.status()
    }
}

async fn reads_claims(request: Request) -> Result<JwtResponse, Infallible> {
    let claims = request.extensions().get::<TokenData<RegisteredClaims>>();
    let customer = claims.and_then(|token| token.claims.sub.as_deref());
    Ok(JwtResponse(answer(customer)))
}
