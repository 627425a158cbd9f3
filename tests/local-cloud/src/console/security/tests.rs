use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::get;
use tower_service::Service;

use super::*;

const PORT: u16 = 4000;

struct Server {
    guard: Arc<Guard>,
    router: Router,
}

impl Server {
    fn new() -> Self {
        let guard = Arc::new(Guard::new(PORT).expect("random numbers"));
        let secret = get(|| async { "secret" }).post(|| async { "done" });
        let router = Router::new()
            .route("/", get(|| async { "page" }))
            .route("/api/v1/stream", secret)
            .layer(from_fn_with_state(Arc::clone(&guard), protect));
        Self { guard, router }
    }

    async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "127.0.0.1:4000");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.router.call(request.body(Body::empty()).expect("a request")).await.expect("a response")
    }

    async fn status(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> StatusCode {
        self.send(method, path, headers).await.status()
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.guard.token())
    }

    fn cookie(&self) -> String {
        format!("other=1; {}={}", self.guard.cookie(), self.guard.session)
    }
}

const STREAM: &str = "/api/v1/stream";

#[tokio::test]
async fn nothing_is_served_without_the_token() {
    let mut server = Server::new();
    for path in ["/", "/style.css", STREAM, "/?token=", "/?token=0000", "/api/v1/stream?token=x"] {
        assert_eq!(server.status("GET", path, &[]).await, StatusCode::FORBIDDEN, "{path}");
    }
    for (name, value) in [("authorization", "Bearer x"), ("cookie", "gatehouse-console-4000=x"), ("cookie", "")] {
        assert_eq!(server.status("GET", STREAM, &[(name, value)]).await, StatusCode::FORBIDDEN, "{name}: {value}");
    }
    let token = server.guard.token().to_owned();
    let cookie = format!("gatehouse-console-4000={token}");
    assert_eq!(server.status("GET", STREAM, &[("cookie", &cookie)]).await, StatusCode::FORBIDDEN, "the token itself");
}

#[tokio::test]
async fn address_is_exchanged_for_a_strict_cookie() {
    let mut server = Server::new();
    let path = format!("/?token={}", server.guard.token());
    let response = server.send("GET", &path, &[("sec-fetch-site", "none")]).await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    assert_eq!(response.headers()["location"], "/");
    let cookie = response.headers()["set-cookie"].to_str().expect("text").to_owned();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains(server.guard.token()), "{cookie}");
    let cookie = cookie.split(';').next().expect("a pair").to_owned();
    assert_eq!(server.status("GET", "/", &[("cookie", &cookie)]).await, StatusCode::OK);
    assert_eq!(server.status("GET", &path, &[("sec-fetch-site", "cross-site")]).await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn other_host_names_are_refused_as_in_dns_rebinding() {
    let mut server = Server::new();
    let (bearer, cookie) = (server.bearer(), server.cookie());
    for host in ["attacker.example:4000", "127.0.0.1", "127.0.0.1:4001", "localhost.attacker.example:4000", ""] {
        for credentials in [("authorization", &*bearer), ("cookie", &*cookie)] {
            let headers = [("host", host), credentials];
            assert_eq!(server.status("GET", STREAM, &headers).await, StatusCode::FORBIDDEN, "{host}");
        }
        let path = format!("/?token={}", server.guard.token());
        assert_eq!(server.status("GET", &path, &[("host", host)]).await, StatusCode::FORBIDDEN, "{host}");
    }
    let localhost = [("host", "localhost:4000"), ("authorization", &*bearer)];
    assert_eq!(server.status("GET", STREAM, &localhost).await, StatusCode::OK);
    let twice = [("host", "localhost:4000"), ("host", "localhost:4000"), ("authorization", &*bearer)];
    assert_eq!(server.status("GET", STREAM, &twice).await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn form_of_another_page_is_refused_even_with_the_cookie() {
    let mut server = Server::new();
    let cookie = server.cookie();
    for origin in ["http://attacker.example", "null", "http://127.0.0.1:4001", "https://127.0.0.1:4000", ""] {
        let headers = [("origin", origin), ("cookie", &*cookie), ("content-type", "text/plain")];
        assert_eq!(server.status("POST", STREAM, &headers).await, StatusCode::FORBIDDEN, "{origin}");
    }
    // A browser always sends the origin with a POST request, so one without it is not from the page.
    assert_eq!(server.status("POST", STREAM, &[("cookie", &cookie)]).await, StatusCode::FORBIDDEN);
    let own = [("origin", "http://127.0.0.1:4000"), ("cookie", &*cookie)];
    assert_eq!(server.status("POST", STREAM, &own).await, StatusCode::OK);
}

#[tokio::test]
async fn event_stream_is_refused_to_another_origin() {
    let mut server = Server::new();
    let cookie = server.cookie();
    for (name, value) in
        [("origin", "http://attacker.example"), ("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site")]
    {
        let headers = [(name, value), ("cookie", &*cookie)];
        assert_eq!(server.status("GET", STREAM, &headers).await, StatusCode::FORBIDDEN, "{name}: {value}");
    }
    let own = [("sec-fetch-site", "same-origin"), ("cookie", &*cookie)];
    assert_eq!(server.status("GET", STREAM, &own).await, StatusCode::OK);
}

#[tokio::test]
async fn every_response_has_the_security_headers() {
    let mut server = Server::new();
    let bearer = server.bearer();
    for headers in [&[][..], &[("authorization", &*bearer)]] {
        let response = server.send("GET", "/", headers).await;
        let policy = response.headers()["content-security-policy"].to_str().expect("text");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert!(!response.headers().contains_key("access-control-allow-origin"));
    }
}

#[test]
fn tokens_are_long_and_differ() {
    let (one, another) = (Guard::new(1).expect("a guard"), Guard::new(1).expect("a guard"));
    assert_eq!(one.token.len(), 64);
    assert_ne!(one.token, another.token);
    assert_ne!(one.token, one.session);
}
