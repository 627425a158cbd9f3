//! The local cloud: a MiniStack server on free ports of this machine, with IAM enforced.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::process::Pid;
use serde::Deserialize;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use crate::isolation::{self, Account, Endpoint, Inherit};
use crate::observer;
use crate::supervisor::{self, Supervisor};
use crate::tools;

/// The Python program that starts the server.
const SERVE: &str = include_str!("serve.py");

/// How long the server may take to start. It takes half a second on an idle machine.
const START_TIMEOUT: Duration = Duration::from_mins(5);

/// A running local cloud. Dropping it stops the server and all functions.
#[derive(Debug)]
pub struct Cloud {
    /// The endpoint of all services except the MQTT broker.
    pub endpoint: Endpoint,
    /// The address of the MQTT broker, which requires TLS.
    pub mqtt: SocketAddr,
    /// The broker's CA certificate, in PEM.
    pub ca: String,
    /// A temporary directory, removed with the cloud.
    pub scratch: PathBuf,
    /// The server's log file.
    pub log: PathBuf,
    /// The packaged root template.
    pub(crate) template: OnceCell<String>,
    supervisor: Mutex<Supervisor>,
}

impl Cloud {
    /// Starts a local cloud that logs to `log`, and waits until it is ready.
    ///
    /// `settings` are additional environment variables of the server.
    pub async fn start(log: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let program = tools::cloud_python()?;
        // Another process may take a port before the server listens on it.
        let mut last = None;
        for _ in 0..5 {
            match Self::try_start(&program, log, settings).await {
                Ok(cloud) => return Ok(cloud),
                Err(StartError::PortTaken(error)) => last = Some(error),
                Err(StartError::Failed(error)) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow!("failed to find a free port")))
    }

    async fn try_start(program: &Path, log: &Path, settings: &[(&str, &str)]) -> Result<Self, StartError> {
        // Both listeners are open at the same time, so the ports differ.
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to listen on loopback");
        let (gateway, broker) = (free()?, free()?);
        let address = |listener: &TcpListener| listener.local_addr().context("the listener has no address");
        let (gateway_address, mqtt) = (address(&gateway)?, address(&broker)?);
        let endpoint = Endpoint::new(gateway_address)?;
        let scratch = tempfile::Builder::new()
            .prefix("gatehouse-")
            .tempdir()
            .context("failed to create a temporary directory")?
            .keep();
        if let Some(directory) = log.parent() {
            std::fs::create_dir_all(directory).with_context(|| format!("failed to create {}", directory.display()))?;
        }
        let out = File::create(log).with_context(|| format!("failed to write {}", log.display()))?;

        // A unique name distinguishes this server from another one that took the port at the same moment.
        let name = scratch.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut server = isolation::command(program, Inherit::Minimal, endpoint, &Account::primary(), &scratch);
        server
            .args(["-c", SERVE])
            .current_dir(&scratch)
            .env("AUTH", "true")
            .env("BIND_HOST", gateway_address.ip().to_string())
            .env("GATEWAY_PORT", gateway_address.port().to_string())
            .env("IOT_MTLS_PORT", mqtt.port().to_string())
            .env("MINISTACK_VERSION", &name)
            .env("OBSERVER_QUEUE", observer::QUEUE)
            .env("MINISTACK_REGION", isolation::REGION)
            .env("STATE_DIR", scratch.join("state"))
            .env("S3_DATA_DIR", scratch.join("s3"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(settings.iter().copied());
        drop((gateway, broker));
        let mut supervisor = Supervisor::start(&server, &scratch, Some(&out))?;

        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if supervisor.ended().is_some() {
                let output = tail(log);
                return Err(if output.contains("already in use") {
                    StartError::PortTaken(anyhow!("the port of the local cloud is in use"))
                } else {
                    StartError::Failed(anyhow!("the local cloud failed to start:\n{output}"))
                });
            }
            match ready(endpoint, &name).await {
                Ok(Ready::Yes) => break,
                Ok(Ready::NoBroker) => {
                    return Err(StartError::PortTaken(anyhow!("the port of the local broker is in use")));
                }
                Ok(Ready::NotYet) | Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(50)).await,
                Ok(Ready::NotYet) => {
                    let output = tail(log);
                    return Err(StartError::Failed(anyhow!(
                        "the local cloud is not ready after {START_TIMEOUT:?}:\n{output}"
                    )));
                }
                Err(error) => return Err(StartError::Failed(error.context("the local cloud does not respond"))),
            }
        }
        let ca = String::from_utf8(get(endpoint, "/_ministack/iot/ca.pem").await?)
            .context("the CA certificate is not UTF-8")?;
        Ok(Self {
            endpoint,
            mqtt,
            ca,
            scratch,
            log: log.to_owned(),
            template: OnceCell::new(),
            supervisor: Mutex::new(supervisor),
        })
    }

    /// Fails if the server has ended.
    pub fn check(&self) -> Result<()> {
        match self.supervisor().ended() {
            None => Ok(()),
            Some(_) => bail!("the local cloud has ended:\n{}", tail(&self.log)),
        }
    }

    /// Waits until the server responds.
    pub async fn ping(&self) -> Result<()> {
        get(self.endpoint, "/_ministack/ready").await.map(drop)
    }

    /// Lists the processes of the server and of the functions.
    pub fn processes(&self) -> Vec<Pid> {
        let supervisor = i32::try_from(self.supervisor().id()).ok().and_then(Pid::from_raw);
        supervisor.map(supervisor::descendants).unwrap_or_default()
    }

    /// Stops the server and all functions, and waits until no process is left.
    pub fn stop(&self) {
        self.supervisor().stop();
    }

    fn supervisor(&self) -> MutexGuard<'_, Supervisor> {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum StartError {
    PortTaken(anyhow::Error),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for StartError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

enum Ready {
    Yes,
    NotYet,
    NoBroker,
}

async fn ready(endpoint: Endpoint, name: &str) -> Result<Ready> {
    #[derive(Deserialize)]
    struct Health {
        version: Option<String>,
    }
    #[derive(Deserialize)]
    struct State {
        iot_mtls: String,
    }
    let Ok(state) = get(endpoint, "/_ministack/ready").await else { return Ok(Ready::NotYet) };
    let state: State = serde_json::from_slice(&state)?;
    if state.iot_mtls == "degraded" {
        return Ok(Ready::NoBroker);
    }
    let health: Health = serde_json::from_slice(&get(endpoint, "/_ministack/health").await?)?;
    let is_ours = health.version.as_deref() == Some(name);
    Ok(if is_ours && state.iot_mtls == "listening" { Ready::Yes } else { Ready::NotYet })
}

/// Returns the body of a successful response.
async fn get(endpoint: Endpoint, path: &str) -> Result<Vec<u8>> {
    let (status, body) = send(endpoint, Request::get(path).body(Full::default())?).await?;
    ensure!(status.is_success(), "GET {path} returned {status}");
    Ok(body.into())
}

/// Sends a request on a new connection. Returns the response's status and body.
pub(crate) async fn send(endpoint: Endpoint, mut request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)> {
    let stream = tokio::net::TcpStream::connect(endpoint.address()).await?;
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    request.headers_mut().insert(hyper::header::HOST, endpoint.address().to_string().parse()?);
    let response = send.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}

/// Returns the last lines of a log.
pub fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(2_000)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.len().saturating_sub(12);
    lines.get(last..).unwrap_or_default().join("\n")
}
