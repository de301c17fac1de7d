//! One call to Polar, and its errors.

use std::{borrow::Cow, time::Duration};

use chrono::{DateTime, Utc};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
};
use reqwest::{Client, Response, Url};
use zeroize::Zeroizing;

use super::{
    answer::PolarAnswer,
    rate_limit::{Caller, RateLimits},
};
use crate::store::error::{ContextError, StoreError};

/// Longest answer that is read. Polar's are far shorter.
const MAX_ANSWER_LEN: usize = 1 << 20;

/// Wait after a 429 without `Retry-After`: Polar counts calls per minute.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// The name that calls carry in `User-Agent`.
const CLIENT_NAME: &str = concat!("customer-session/", env!("CARGO_PKG_VERSION"));

/// The HTTP client of one organization.
pub(super) struct PolarClient {
    pub(super) client: Client,
    pub(super) base_url: Url,
    /// The header of the organization's credential, marked as sensitive.
    pub(super) credential: HeaderValue,
    /// Time limit of one call, body included; `None` is no limit.
    pub(super) timeout: Option<Duration>,
    pub(super) limits: RateLimits,
}

/// A request to be sent.
pub(super) struct Call<'a> {
    context: &'static str,
    caller: Caller<'a>,
    method: Method,
    path: Vec<&'a str>,
    query: Option<&'static str>,
}

impl<'a> Call<'a> {
    pub(super) fn get(context: &'static str, caller: Caller<'a>) -> Self {
        Self {
            context,
            caller,
            method: Method::GET,
            path: Vec::new(),
            query: None,
        }
    }

    pub(super) fn post(context: &'static str, caller: Caller<'a>) -> Self {
        Self {
            method: Method::POST,
            ..Self::get(context, caller)
        }
    }

    /// Sets the segments of the path. An empty last one makes a slash at the end.
    pub(super) fn at<const N: usize>(mut self, path: [&'a str; N]) -> Self {
        self.path = path.to_vec();
        self
    }

    /// Sets the query, which must need no escaping.
    pub(super) fn query(mut self, query: &'static str) -> Self {
        self.query = Some(query);
        self
    }
}

impl PolarClient {
    /// Fails while `caller` must wait.
    pub(super) fn check_limit(&self, caller: Caller<'_>) -> Result<(), StoreError> {
        match self.limits.wait(caller) {
            None => Ok(()),
            Some(left) => Err(StoreError::unavailable(
                "Polar's rate limit is reached; no calls are made until it ends",
            )
            .with_retry_after(left)),
        }
    }

    /// Sends a request, and reads the answer to its end. The caller judges statuses below 500.
    pub(super) async fn send(
        &self,
        call: Call<'_>,
        json: Option<Vec<u8>>,
    ) -> Result<PolarAnswer, StoreError> {
        let Call {
            context, caller, ..
        } = call;
        self.check_limit(caller)?;
        let url = self.url(&call);
        let mut request = self
            .client
            .request(call.method, url.clone())
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, HeaderValue::from_static(CLIENT_NAME));
        request = match caller {
            Caller::Organization => request.header(AUTHORIZATION, self.credential.clone()),
            // `bearer_auth` marks the header as sensitive.
            Caller::Customer { token, .. } => request.bearer_auth(token.expose()),
        };
        if let Some(timeout) = self.timeout {
            request = request.timeout(timeout);
        }
        if let Some(json) = json {
            let kind = HeaderValue::from_static("application/json");
            request = request.header(CONTENT_TYPE, kind).body(json);
        }
        let response = request.send().await;
        let response = response.map_err(|error| unanswered(context, error))?;
        if *response.url() != url {
            return Err(refused(
                context,
                "the client given to the builder has followed a redirect; build it with \
                 redirect::Policy::none()",
            ));
        }
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            let told = retry_after(response.headers(), self.limits.now()).unwrap_or(DEFAULT_WAIT);
            let wait = self.limits.record_limit(caller, told);
            return Err(refused(context, "Polar's rate limit is reached").with_retry_after(wait));
        }
        if status.is_redirection() {
            let text =
                format!("Polar answered {status}; redirects are not followed, check the base URL");
            return Err(refused(context, text));
        }
        if status.is_server_error() {
            return Err(refused(context, format!("Polar answered {status}")));
        }
        Ok(PolarAnswer {
            status,
            context,
            is_to_organization: matches!(caller, Caller::Organization),
            body: read(context, response).await?,
        })
    }

    fn url(&self, call: &Call<'_>) -> Url {
        let mut url = self.base_url.clone();
        // Never an error: the builder accepts http and https alone.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(&call.path);
        }
        url.set_query(call.query);
        url
    }
}

fn refused(context: &'static str, why: impl Into<Cow<'static, str>>) -> StoreError {
    StoreError::unavailable(ContextError::new(context, why.into()))
}

fn unanswered(context: &'static str, error: reqwest::Error) -> StoreError {
    let is_timeout = error.is_timeout();
    let failure = ContextError::new(context, error.without_url());
    if is_timeout {
        StoreError::timeout(failure)
    } else {
        StoreError::unavailable(failure)
    }
}

/// Reads the whole body, unless it is too long.
async fn read(
    context: &'static str,
    mut response: Response,
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let mut body = Zeroizing::new(Vec::new());
    loop {
        let chunk = response.chunk().await;
        match chunk.map_err(|error| unanswered(context, error))? {
            None => return Ok(body),
            Some(chunk) if chunk.len() > MAX_ANSWER_LEN - body.len() => {
                let text = "the answer is longer than 1 MiB";
                return Err(StoreError::corrupt(ContextError::new(context, text)));
            }
            Some(chunk) => body.extend_from_slice(&chunk),
        }
    }
}

/// Reads `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = DateTime::parse_from_rfc2822(value).ok()?;
            Some((date.to_utc() - now).to_std().unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = "1994-11-06T08:48:37Z".parse().expect("a time");
        let wait = |value: &'static str| {
            let headers = [(RETRY_AFTER, HeaderValue::from_static(value))];
            retry_after(&headers.into_iter().collect(), now)
        };
        let minute = Some(Duration::from_secs(60));
        assert_eq!(wait("60"), minute);
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), minute);
        let past = "Sun, 06 Nov 1994 08:40:00 GMT";
        assert_eq!(wait(past), Some(Duration::ZERO));
        for nonsense in ["", "soon", "-1", "1.5"] {
            assert_eq!(wait(nonsense), None, "{nonsense}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
