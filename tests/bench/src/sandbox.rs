//! The process of a function.

use std::{
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};
use tokio::{
    process::{Child, Command},
    sync::oneshot,
    time::timeout,
};

use crate::{
    aws::FakeAws,
    batch::Size,
    cgroup::{Cgroup, Cgroups},
    clock, process,
    runtime_api::{Event, RuntimeApi, RuntimeRequest},
    subject::Subject,
    world::World,
};

/// The argument that turns this program into the launcher.
pub const LAUNCH: &str = "launch-function";
/// How long a process may take to respond; even a throttled process is faster.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Joins the cgroup, notes the time, and replaces this process with the function, so that only its `exec` counts as its
/// start. Returns only on an error.
pub fn launch(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut argument = || arguments.next().context("the launcher needs more arguments");
    let (cgroup, stamp, program) = (argument()?, argument()?, argument()?);
    // If the benchmark is killed, so is the function.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if !cgroup.is_empty() {
        fs::write(&cgroup, "0").with_context(|| format!("failed to join {cgroup}"))?;
    }
    let mut command = std::process::Command::new(&program);
    command.args(arguments);
    let mut stamp = fs::File::create(&stamp)?;
    write!(stamp, "{}", clock::now().as_nanos())?;
    Err(command.exec()).with_context(|| format!("failed to start {program}"))
}

/// A running function that polls for its next event.
#[derive(Debug)]
pub struct Sandbox<'a> {
    subject: &'a Subject,
    aws: &'a FakeAws,
    child: Child,
    host: RuntimeApi,
    next: Option<oneshot::Sender<Event>>,
    log: PathBuf,
    cgroup: Option<Cgroup>,
    has_had_event: bool,
    /// The time from its start to its first poll.
    pub init: Duration,
}

impl<'a> Sandbox<'a> {
    /// Starts the function and waits for its first poll. With `throttle`, its CPU is limited from then on.
    pub async fn start(subject: &'a Subject, world: &'a World, throttle: Option<&Cgroups>) -> Result<Self> {
        let host = RuntimeApi::start().await?;
        let cgroup = throttle.map(Cgroups::create).transpose()?;
        let stamp = world.dir.path().join("started-at");
        let log = world.dir.path().join(format!("{}.log", host.address.port()));
        let out = fs::File::create(&log)?;
        let joins = cgroup.as_ref().map(Cgroup::procs).unwrap_or_default();
        let child = Command::new(std::env::current_exe()?)
            .arg(LAUNCH)
            .args([&joins, &stamp, &subject.program])
            .args(&subject.arguments)
            .env_clear()
            .envs(world.environment(subject))
            .env("AWS_LAMBDA_RUNTIME_API", host.address.to_string())
            .current_dir(&subject.task_root)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut sandbox = Self {
            subject,
            aws: &world.aws,
            child,
            host,
            next: None,
            log,
            cgroup,
            has_had_event: false,
            init: Duration::ZERO,
        };
        let polled_at = sandbox.poll().await?;
        if let Some(cgroup) = &sandbox.cgroup {
            cgroup.limit()?;
        }
        let started_at = Duration::from_nanos(fs::read_to_string(&stamp)?.parse()?);
        sandbox.init = polled_at.saturating_sub(started_at);
        Ok(sandbox)
    }

    /// Sends an event, checks its effects, and returns how long the response took.
    pub async fn event(&mut self) -> Result<Duration> {
        self.batch(Size::ONE).await
    }

    /// Like [`Self::event`], with a batch of this size.
    pub async fn batch(&mut self, size: Size) -> Result<Duration> {
        let is_first = !std::mem::replace(&mut self.has_had_event, true);
        let mut event = self.subject.next_event(size, &self.aws.registry, is_first)?;
        self.aws.take_calls();
        let sender = self.next.take().context("the function has not polled")?;
        let sent = sender.send(Event {
            request_id: event.request_id.clone(),
            arn: self.subject.arn(),
            body: std::mem::take(&mut event.body),
        });
        if sent.is_err() {
            bail!(self.failure("closed the connection before its event"));
        }
        let RuntimeRequest::Response { duration, response } = self.next_request().await? else {
            bail!(self.failure("polled twice"));
        };
        let response = match response {
            Ok(response) => response,
            Err(error) => bail!(self.failure(&format!("failed: {error}"))),
        };
        if let Err(error) = event.check(&response, &self.aws.take_calls()) {
            bail!(self.failure(&format!("had unexpected effects: {error:#}")));
        }
        self.poll().await?;
        Ok(duration)
    }

    /// Returns the CPU time so far.
    pub fn cpu(&self) -> process::Cpu {
        process::cpu(self.child.id().unwrap_or_default())
    }

    /// Returns the peak memory in MiB.
    pub fn peak_mib(&self) -> Result<f64> {
        process::peak_mib(self.child.id().unwrap_or_default())
    }

    /// Stops the function.
    pub async fn stop(mut self) -> Result<()> {
        self.kill_group();
        self.child.wait().await?;
        Ok(())
    }

    async fn poll(&mut self) -> Result<Duration> {
        match self.next_request().await? {
            RuntimeRequest::Poll { at, sender } => {
                self.next = Some(sender);
                Ok(at)
            }
            RuntimeRequest::InitError(error) => bail!(self.failure(&format!("failed to start: {error}"))),
            RuntimeRequest::Response { .. } => bail!(self.failure("responded twice")),
        }
    }

    async fn next_request(&mut self) -> Result<RuntimeRequest> {
        tokio::select! {
            biased;
            request = timeout(TIMEOUT, self.host.requests.recv()) => match request {
                Ok(Some(request)) => Ok(request),
                _ => bail!(self.failure("did not respond within a minute")),
            },
            status = self.child.wait() => bail!(self.failure(&format!("ended with {}", status?))),
        }
    }

    /// Returns an error message with the last lines of the log.
    fn failure(&self, what: &str) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
        format!("{} {what}\n{}", self.subject.name(), tail.join("\n"))
    }

    fn kill_group(&self) {
        let group = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// Finds a program in PATH.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| Path::is_file(file))
}
