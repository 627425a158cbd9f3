//! The local cloud: MiniStack on free ports of this machine, with IAM enforced, which ends with the value that
//! started it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustix::process::Pid;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::isolation::{self, Account, Endpoint, Inherit};
use crate::keeper::{self, Keeper};
use crate::tools;

/// Starts the server, which waits 50 ms for more of what a function logs, and not 5: on a busy machine its own thread that
/// reads the lines comes later than that, and what came too late is shown only once the function is invoked again.
const SERVE: &str = "
from ministack.app import main
from ministack.core.lambda_runtime import Worker
drain = Worker._drain_stderr_bounded
names = drain.__code__.co_varnames[1:drain.__code__.co_argcount]
assert names == ('first_line_wait', 'idle_confirm', 'hard_cap'), names
drain.__defaults__ = (0.25, 0.05, 0.5)
main()
";

/// How long the server may take until it serves. It takes half a second where nothing else runs.
const START: Duration = Duration::from_mins(1);

/// A running local cloud.
#[derive(Debug)]
pub struct Cloud {
    /// Where every service but the MQTT broker listens.
    pub endpoint: Endpoint,
    /// Where the MQTT broker listens, with mutual TLS.
    pub mqtt: SocketAddr,
    /// The certificate authority of the broker, in PEM.
    pub ca: String,
    /// A directory of this run's own, removed when it ends.
    pub scratch: PathBuf,
    /// What the server wrote.
    pub log: PathBuf,
    keeper: Mutex<Keeper>,
}

impl Cloud {
    /// Starts one, with its log in `log`, and waits until it serves.
    ///
    /// `settings` are further variables for the server, such as the pause before an asynchronous invocation is tried
    /// again.
    pub async fn start(log: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let program = tools::cloud_python()?;
        // Between choosing a free port and the server's taking it, another may come: then with two others.
        let mut last = None;
        for _ in 0..5 {
            match Self::attempt(&program, log, settings).await {
                Ok(cloud) => return Ok(cloud),
                Err(Attempt::PortTaken(error)) => last = Some(error),
                Err(Attempt::Failed(error)) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow!("found no free port")))
    }

    async fn attempt(program: &Path, log: &Path, settings: &[(&str, &str)]) -> Result<Self, Attempt> {
        // Both listeners are open at once, so that the ports differ.
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on this machine's loopback");
        let (gateway, broker) = (free()?, free()?);
        let address = |listener: &TcpListener| listener.local_addr().context("a listener without an address");
        let (gateway_address, mqtt) = (address(&gateway)?, address(&broker)?);
        let endpoint = Endpoint::new(gateway_address)?;
        let scratch = tempfile::Builder::new()
            .prefix("gatehouse-")
            .tempdir()
            .context("cannot make a temporary directory")?
            .keep();
        if let Some(directory) = log.parent() {
            std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;

        // Told apart by a name of its own from another server that took the port at the same moment.
        let name = scratch.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut server = isolation::command(program, Inherit::Basics, endpoint, &Account::first(), &scratch);
        server
            .args(["-c", SERVE])
            .current_dir(&scratch)
            .env("AUTH", "true")
            .env("BIND_HOST", gateway_address.ip().to_string())
            .env("GATEWAY_PORT", gateway_address.port().to_string())
            .env("IOT_MTLS_PORT", mqtt.port().to_string())
            .env("MINISTACK_VERSION", &name)
            .env("MINISTACK_REGION", isolation::REGION)
            .env("STATE_DIR", scratch.join("state"))
            .env("S3_DATA_DIR", scratch.join("s3"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(settings.iter().copied());
        drop((gateway, broker));
        let mut keeper = Keeper::start(&server, &scratch, Some(&out))?;

        let deadline = Instant::now() + START;
        loop {
            if keeper.ended().is_some() {
                let said = tail(log);
                return Err(if said.contains("already in use") {
                    Attempt::PortTaken(anyhow!("the local cloud found its port taken"))
                } else {
                    Attempt::Failed(anyhow!("the local cloud did not start; it said:\n{said}"))
                });
            }
            match ready(endpoint, &name).await {
                Ok(Ready::Yes) => break,
                Ok(Ready::NoBroker) => {
                    return Err(Attempt::PortTaken(anyhow!("the local broker found its port taken")));
                }
                Ok(Ready::NotYet) | Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(50)).await,
                Ok(Ready::NotYet) => {
                    let said = tail(log);
                    return Err(Attempt::Failed(anyhow!(
                        "the local cloud is not ready after {START:?}; it said:\n{said}"
                    )));
                }
                Err(error) => return Err(Attempt::Failed(error.context("the local cloud does not answer"))),
            }
        }
        let ca = String::from_utf8(get(endpoint, "/_ministack/iot/ca.pem").await?).context("the CA is not text")?;
        Ok(Self { endpoint, mqtt, ca, scratch, log: log.to_owned(), keeper: Mutex::new(keeper) })
    }

    /// An error that tells how the server ended, if it has.
    pub fn check(&self) -> Result<()> {
        match self.keeper().ended() {
            None => Ok(()),
            Some(_) => bail!("the local cloud has ended; it said:\n{}", tail(&self.log)),
        }
    }

    /// The server's process and each function's, the server's first.
    pub fn processes(&self) -> Vec<Pid> {
        let keeper = i32::try_from(self.keeper().id()).ok().and_then(Pid::from_raw);
        keeper.map(keeper::descendants).unwrap_or_default()
    }

    /// Ends the server and every function, and waits until none is left. Dropping the value does the same.
    pub fn stop(&self) {
        self.keeper().stop();
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Attempt {
    PortTaken(anyhow::Error),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Attempt {
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

/// The body of a successful answer.
async fn get(endpoint: Endpoint, path: &str) -> Result<Vec<u8>> {
    let stream = tokio::net::TcpStream::connect(endpoint.address()).await?;
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request =
        hyper::Request::get(path).header("host", endpoint.address().to_string()).body(Empty::<Bytes>::new())?;
    let answer = send.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    ensure!(status.is_success(), "GET {path} was answered with {status}");
    Ok(body.into())
}

/// The last lines of a log, to show to a person.
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
