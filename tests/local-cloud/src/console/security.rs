//! Access control of the console: only a person who has the printed URL can use it.
//!
//! The console can publish and invoke functions, and any web page can make a browser send requests to it. So each
//! request must name this server (against DNS rebinding), must not come from a page of another origin (against
//! cross-site request forgery), and must carry the token. The URL contains the token; the first request exchanges it
//! for a cookie that no script can read.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

/// Headers of every response. They allow scripts, styles and connections of this server only, and no script can turn
/// text into markup.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// The token and cookie that requests must have.
#[derive(Debug)]
pub struct Guard {
    port: u16,
    token: String,
    /// The value of the cookie. It differs from the token, which a browser may keep in its history.
    session: String,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Denial {
    Host,
    Origin,
    Token,
}

impl Denial {
    fn sentence(self) -> &'static str {
        match self {
            Self::Host => "This server has another name.\n",
            Self::Origin => "The console accepts requests of its own page only.\n",
            Self::Token => "Open the address that `make local` or `make console` printed: it has the token.\n",
        }
    }
}

impl Guard {
    /// Returns a guard with a new token, for a server on this port.
    pub fn new(port: u16) -> Result<Self> {
        Ok(Self { port, token: random()?, session: random()? })
    }

    /// Returns the token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Returns the cookie's name. It contains the port, because cookies are shared between ports.
    fn cookie(&self) -> String {
        format!("gatehouse-console-{}", self.port)
    }

    fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), Denial> {
        let host = only(headers, &header::HOST).ok_or(Denial::Host)?;
        let names = ["127.0.0.1", "localhost"].map(|name| format!("{name}:{}", self.port));
        if !names.iter().any(|name| name == host) {
            return Err(Denial::Host);
        }
        let has_origin = headers.contains_key(header::ORIGIN);
        if has_origin && only(headers, &header::ORIGIN).is_none_or(|origin| origin != format!("http://{host}")) {
            return Err(Denial::Origin);
        }
        // Browsers send the origin of a request; `none` means that a person opened the URL.
        let site = HeaderName::from_static("sec-fetch-site");
        let is_from_here = |site: &str| matches!(site, "same-origin" | "none");
        if headers.contains_key(&site) && !only(headers, &site).is_some_and(is_from_here) {
            return Err(Denial::Origin);
        }
        let authorization = only(headers, &header::AUTHORIZATION);
        if let Some(token) = authorization.and_then(|value| value.strip_prefix("Bearer ")) {
            return if is_equal(token, &self.token) { Ok(()) } else { Err(Denial::Token) };
        }
        let (name, cookies) = (self.cookie(), headers.get_all(header::COOKIE));
        let mut pairs = cookies.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split("; "));
        let has_session = pairs.any(|pair| {
            pair.split_once('=').is_some_and(|(its_name, value)| its_name == name && is_equal(value, &self.session))
        });
        if !has_session {
            return Err(Denial::Token);
        }
        // A browser adds the cookie to any request, but always sends the origin with requests that are not safe.
        let is_safe = matches!(*method, Method::GET | Method::HEAD);
        if is_safe || has_origin { Ok(()) } else { Err(Denial::Origin) }
    }

    /// Exchanges the token in the URL for the cookie. Returns `None` if the request is not for that.
    fn sign_in(&self, request: &Request) -> Option<Response> {
        if request.method() != Method::GET || request.uri().path() != "/" {
            return None;
        }
        let token = request.uri().query()?.strip_prefix("token=")?;
        // The host and origin must be right; the missing cookie is the only denial that is ignored.
        if self.check(request.method(), request.headers()).err().is_some_and(|denial| denial != Denial::Token)
            || !is_equal(token, &self.token)
        {
            return None;
        }
        let cookie = format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie(), self.session);
        let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, "/".to_owned())];
        Some((StatusCode::SEE_OTHER, headers).into_response())
    }
}

/// Checks a request before any other handler.
pub async fn protect(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut response = if let Some(response) = guard.sign_in(&request) {
        response
    } else {
        match guard.check(request.method(), request.headers()) {
            Ok(()) => next.run(request).await,
            Err(denial) => (StatusCode::FORBIDDEN, denial.sentence()).into_response(),
        }
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Returns the value of a header, if the header appears exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    if all.next().is_some() { None } else { first.to_str().ok() }
}

/// Compares secrets in a time that does not depend on the length of their common prefix.
fn is_equal(given: &str, expected: &str) -> bool {
    digest(&SHA256, given.as_bytes()).as_ref() == digest(&SHA256, expected.as_bytes()).as_ref()
}

/// Returns 256 random bits as text.
fn random() -> Result<String> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow!("the system has no random numbers"))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
mod tests;
