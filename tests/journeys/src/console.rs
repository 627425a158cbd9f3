//! The console: its API, and its page in a browser.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use local_cloud::observer::now;
use local_cloud::tools;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::programs::{gatehouse, local};
use crate::suite::Suite;

/// How long an outcome may take, even on a busy machine.
const PATIENCE: Duration = Duration::from_mins(5);

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    let console = Arc::new(LazyConsole::default());
    let trial = |name, test: fn(&RunningConsole) -> Result<()>| {
        let console = Arc::clone(&console);
        suite.trial("console", name, move |_| {
            let console = Arc::clone(&console);
            async move {
                let _one_by_one = console.0.lock();
                test(console.get()?)
            }
        })
    };
    let api = trial("api_publishes_and_shows_the_path_to_the_owner_of_the_token_only", api);
    let mut page = trial("every_panel_works_in_a_browser", browser);
    let missing = browser_programs().err();
    if let Some(missing) = missing {
        eprintln!("{missing:#}; skipping the test of the console in a browser");
        page = page.with_kind("needs Chromium").with_ignored_flag(true);
    }
    vec![page, api]
}

/// The console that both tests use, one after the other. The first one starts it.
#[derive(Default)]
struct LazyConsole(Mutex<()>, OnceLock<Result<RunningConsole, String>>);

impl LazyConsole {
    fn get(&self) -> Result<&RunningConsole> {
        let started = self.1.get_or_init(|| RunningConsole::start().map_err(|error| format!("{error:#}")));
        started.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }
}

/// A running `make console`.
struct RunningConsole {
    child: Child,
    /// The URL to open.
    url: String,
    host: String,
    token: String,
}

impl RunningConsole {
    fn start() -> Result<Self> {
        gatehouse()?;
        let mut child = local()?
            .arg("--console-only")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start the console")?;
        let mut url = String::new();
        BufReader::new(child.stdout.take().context("standard output is not piped")?).read_line(&mut url)?;
        let url = url.trim().to_owned();
        let rest = url.strip_prefix("http://").with_context(|| format!("the console printed {url:?}"))?;
        let (host, token) = rest.split_once("/?token=").context("the address has no token")?;
        let (host, token) = (host.to_owned(), token.to_owned());
        Ok(Self { child, url, host, token })
    }

    /// Sends a raw request, and returns the status and the whole response.
    fn send(&self, head: &str, body: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.host)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let status = response.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok((status.with_context(|| format!("the response is {response}"))?, response))
    }

    /// Sends a request with the token.
    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let head = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json",
            self.host, self.token
        );
        let (status, response) = self.send(&head, &body.to_string())?;
        ensure!((200..300).contains(&status), "{method} {path} returned {response}");
        let (_, body) = response.split_once("\r\n\r\n").context("the response has no body")?;
        Ok(if body.is_empty() { Value::Null } else { serde_json::from_str(body)? })
    }
}

impl Drop for RunningConsole {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

fn api(console: &RunningConsole) -> Result<()> {
    refuses_strangers(console)?;
    let (thing, started_at) = ("api-button", now());
    console.call("POST", "/devices", &json!({"thing": thing}))?;
    let payload = json!({"serialNumber": thing, "batteryVoltage": "2000mV", "clickType": "SINGLE"}).to_string();
    let topic = format!("iotbutton/{thing}");
    for (payload, expected) in [(&*payload, "notification"), ("not JSON", "quarantine")] {
        let message = json!({"thing": thing, "topic": topic, "payload": payload});
        let published = console.call("POST", "/publish", &message)?;
        ensure!(published == json!({"published": 1, "denied": false}), "the response is {published}");
        let id = outcome(console, thing, expected)?;
        let path = console.call("GET", &format!("/events/{id}"), &Value::Null)?;
        let function = path.pointer("/functions/0").context("no function got it")?;
        ensure!(function.get("function") == Some(&json!("gatehouse-button")), "the path is {path}");
        ensure!(path.pointer("/payload/text") == Some(&json!(payload)), "the path is {path}");
        ensure!(path.pointer("/rules/0/name") == Some(&json!("gatehouse_button")), "the path is {path}");
    }
    let refused = outcome(console, thing, "quarantine")?;
    let discarded = console.call("POST", "/quarantine/discard", &json!({"ids": [refused]}))?;
    ensure!(discarded.get("discarded") == Some(&json!(1)), "the response is {discarded}");

    let other = json!({"thing": thing, "topic": "iotbutton/another", "payload": "x"});
    let denied = console.call("POST", "/publish", &other)?;
    ensure!(denied.get("denied") == Some(&json!(true)), "the response is {denied}");

    let recorded = console.call("POST", "/scenarios", &json!({"name": "api-test", "since": started_at}))?;
    let steps = recorded.pointer("/scenario/steps").and_then(Value::as_array).context("no steps")?;
    let expects = |expect: Value| steps.iter().any(|step| step.get("expect") == Some(&expect));
    let message = format!("Received SINGLE message from button ID: {thing}");
    ensure!(expects(json!({"notification": {"message": message}})), "the recording is {recorded}");
    ensure!(expects(json!({"quarantine": {"reason": "not-json"}})), "the recording is {recorded}");
    console.call("POST", "/runs", &json!({"scenario": "api-test"}))?;
    let run = poll(|| {
        let runs = console.call("GET", "/runs", &Value::Null)?;
        let run = runs.pointer("/runs/0").cloned().unwrap_or_default();
        let is_running = matches!(run.get("state").and_then(Value::as_str), Some("deploying" | "playing"));
        Ok((!is_running).then_some(run))
    })?;
    ensure!(run.get("state") == Some(&json!("passed")), "the recording was not replayed: {run}");

    console.call("DELETE", "/faults", &Value::Null)?;
    let topology = console.call("GET", "/topology", &Value::Null)?;
    let edge = json!({"from": "rule gatehouse_button", "to": "function gatehouse-button"});
    let edges = topology.get("edges").and_then(Value::as_array).context("no edges")?;
    ensure!(edges.contains(&edge), "the topology is {topology}");
    Ok(())
}

/// Waits until the newest event of a thing has this outcome, and returns its id.
fn outcome(console: &RunningConsole, thing: &str, expected: &str) -> Result<String> {
    poll(|| {
        let listed = console.call("GET", "/events", &Value::Null)?;
        let events = listed.get("events").and_then(Value::as_array).cloned().unwrap_or_default();
        let is_it =
            |event: &&Value| event.get("thing") == Some(&json!(thing)) && event.get("kind") == Some(&json!(expected));
        Ok(events
            .iter()
            .filter(|event| event.get("system") == Some(&json!(false)))
            .rev()
            .find(is_it)
            .and_then(|event| event.get("id").and_then(Value::as_str).map(str::to_owned)))
    })
    .with_context(|| format!("no event of {thing} has the outcome {expected}"))
}

fn poll<T>(mut find: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started_at = std::time::Instant::now();
    loop {
        if let Some(found) = find()? {
            return Ok(found);
        }
        if started_at.elapsed() > PATIENCE {
            bail!("nothing was found in time");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Sends requests without the right to use the console. Its unit tests have more cases, but do not use the network.
fn refuses_strangers(console: &RunningConsole) -> Result<()> {
    let RunningConsole { host, token, .. } = console;
    let bearer = format!("Authorization: Bearer {token}");
    for (what, head) in [
        ("no token", format!("GET /api/v1/stream HTTP/1.1\r\nHost: {host}")),
        ("no token for the page", format!("GET / HTTP/1.1\r\nHost: {host}")),
        ("DNS rebinding", format!("GET / HTTP/1.1\r\nHost: attacker.example\r\n{bearer}")),
        (
            "event stream from another origin",
            format!("GET /api/v1/stream HTTP/1.1\r\nHost: {host}\r\nOrigin: http://attacker.example\r\n{bearer}"),
        ),
        (
            "form of another page",
            format!(
                "POST /api/v1/publish HTTP/1.1\r\nHost: {host}\r\nOrigin: http://attacker.example\r\n{bearer}\r\n\
                 Content-Type: application/x-www-form-urlencoded"
            ),
        ),
    ] {
        let (status, response) = console.send(&head, "thing=a&topic=b&payload=c")?;
        ensure!(status == 403, "{what} got {response}");
        ensure!(!response.contains("gatehouse-button"), "{what} got {response}");
    }
    Ok(())
}

/// Returns the Python interpreter with Selenium, Chromium and its driver.
fn browser_programs() -> Result<[PathBuf; 3]> {
    let find = |names: &[&str]| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let mut candidates =
            std::env::split_paths(&paths).flat_map(|directory| names.iter().map(move |name| directory.join(name)));
        candidates.find(|path| path.is_file()).with_context(|| format!("{} is not installed", names.join(" or ")))
    };
    let chromium = find(&["chromium", "chromium-browser", "google-chrome"])?;
    Ok([tools::browser_python()?, chromium, find(&["chromedriver"])?])
}

fn browser(console: &RunningConsole) -> Result<()> {
    let [python, chromium, driver] = browser_programs()?;
    let screenshots = tools::root().join("target/screenshots");
    let mut journeys = Command::new(python);
    journeys.arg(tools::root().join("tests/journeys/src/console.py"));
    journeys.arg(&console.url).args([chromium, driver, screenshots]);
    let output = journeys.output().context("failed to run the browser")?;
    let (done, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "after these journeys:\n{done}\n{errors}");
    Ok(())
}
