//! One function's process, between its start and its end.

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
    cgroup::{Cgroup, Cgroups},
    clock,
    greenhouse::Size,
    process,
    runtime_api::{Event, RuntimeApi, Said},
    subjects::{Subject, World},
};

/// The argument by which this program becomes the launcher.
pub const LAUNCH: &str = "launch-function";
/// How long a process may be silent: a throttled one is slow, but not that slow.
const PATIENCE: Duration = Duration::from_mins(1);

/// Joins the cgroup, notes the time and becomes the function, so that a process's start is its `exec` and nothing
/// before it. Returns only what went wrong.
pub fn launch(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut argument = || arguments.next().context("the launcher's arguments are short");
    let (cgroup, stamp, program) = (argument()?, argument()?, argument()?);
    // Should the bench be killed, its function goes with it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if !cgroup.is_empty() {
        fs::write(&cgroup, "0").with_context(|| format!("cannot join {cgroup}"))?;
    }
    let mut command = std::process::Command::new(&program);
    command.args(arguments);
    let mut stamp = fs::File::create(&stamp)?;
    write!(stamp, "{}", clock::now().as_nanos())?;
    Err(command.exec()).with_context(|| format!("cannot start {program}"))
}

/// A started function that waits for its next event.
#[derive(Debug)]
pub struct Sandbox<'a> {
    subject: &'a Subject,
    aws: &'a FakeAws,
    child: Child,
    host: RuntimeApi,
    next: Option<oneshot::Sender<Event>>,
    log: PathBuf,
    cgroup: Option<Cgroup>,
    has_begun: bool,
    /// From its start to its first poll.
    pub init: Duration,
}

impl<'a> Sandbox<'a> {
    /// Starts the function and waits for its first poll. With `throttle` it has a whole CPU until then, and Lambda's
    /// share from then on.
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
            has_begun: false,
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

    /// Hands over the subject's next event, and answers how long its answer took, once it is certain that the event
    /// had exactly the effects that it should have.
    pub async fn event(&mut self) -> Result<Duration> {
        self.batch(Size::ONE).await
    }

    /// As [`Self::event`], of this size.
    pub async fn batch(&mut self, size: Size) -> Result<Duration> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let mut event = self.subject.next_event(size, &self.aws.registry, is_first)?;
        self.aws.take_calls();
        let hand = self.next.take().context("no poll is waiting")?;
        let sent = hand.send(Event {
            request_id: event.request_id.clone(),
            arn: self.subject.arn(),
            body: std::mem::take(&mut event.body),
        });
        if sent.is_err() {
            bail!(self.failure("hung up before its event"));
        }
        let Said::Answer { took, answer } = self.hear().await? else {
            bail!(self.failure("polled twice"));
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => bail!(self.failure(&format!("answered an event with the error {error}"))),
        };
        if let Err(why) = event.check(&answer, &self.aws.take_calls()) {
            bail!(self.failure(&format!("did not do what its event asks for: {why:#}")));
        }
        self.poll().await?;
        Ok(took)
    }

    /// CPU time so far.
    pub fn cpu(&self) -> process::Cpu {
        process::cpu(self.child.id().unwrap_or_default())
    }

    /// The most memory it ever used.
    pub fn peak_mib(&self) -> Result<f64> {
        process::peak_mib(self.child.id().unwrap_or_default())
    }

    /// Ends the function.
    pub async fn stop(mut self) -> Result<()> {
        self.kill_group();
        self.child.wait().await?;
        Ok(())
    }

    async fn poll(&mut self) -> Result<Duration> {
        match self.hear().await? {
            Said::Poll { at, hand } => {
                self.next = Some(hand);
                Ok(at)
            }
            Said::InitError(why) => bail!(self.failure(&format!("did not start: {why}"))),
            Said::Answer { .. } => bail!(self.failure("answered twice")),
        }
    }

    async fn hear(&mut self) -> Result<Said> {
        tokio::select! {
            biased;
            said = timeout(PATIENCE, self.host.said.recv()) => match said {
                Ok(Some(said)) => Ok(said),
                _ => bail!(self.failure("was silent for a minute")),
            },
            status = self.child.wait() => bail!(self.failure(&format!("ended, {}", status?))),
        }
    }

    /// What went wrong, and the last that the function wrote.
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

/// Whether `program` is on the path, and where.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| Path::is_file(file))
}
