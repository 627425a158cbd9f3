//! The runtime and the local cloud that all journeys share.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use libtest_mimic::{Failed, Trial};
use local_cloud::aws::Clients;
use local_cloud::cli::RunDirectory;
use local_cloud::cloud::Cloud;
use local_cloud::deploy;
use local_cloud::isolation::Account;
use local_cloud::observer::Observer;
use local_cloud::progress::Progress;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::permissions::{self, JOURNEY};
use crate::stage::Stage;
use crate::stalls::Stalls;

/// Lambda's pause before it retries an asynchronous invocation, in seconds; it doubles each time. In AWS it is a
/// minute. It is longer than the timeout of a function behind a fault proxy, so the claim of a killed process has
/// expired by then, as in AWS.
const RETRY_DELAY: &str = "7";

/// Maximum number of runs of a journey, if the local cloud stalls each time.
const MAX_RUNS: usize = 3;

/// The state that all journeys share.
pub struct Suite {
    runtime: Runtime,
    log: PathBuf,
    directory: Mutex<Option<RunDirectory>>,
    cloud: OnceCell<Arc<Cloud>>,
    accounts: AtomicU64,
    stalls: Arc<Stalls>,
}

impl Suite {
    pub fn new() -> Result<Self> {
        let directory = RunDirectory::new("tests")?;
        Ok(Self {
            runtime: tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
            log: directory.path().join("cloud.log"),
            directory: Mutex::new(Some(directory)),
            cloud: OnceCell::new(),
            accounts: AtomicU64::new(0),
            stalls: Arc::new(Stalls::new()),
        })
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Returns a test. Its name starts with `part`: the functions or other part that it tests, by which `make test
    /// FN=…` selects. It is repeated if it fails while the local cloud stalls.
    pub fn trial<F>(
        self: &Arc<Self>,
        part: &str,
        name: impl Display,
        test: impl Fn(Arc<Self>) -> F + Send + 'static,
    ) -> Trial
    where
        F: Future<Output = Result<()>>,
    {
        let suite = Arc::clone(self);
        let name = format!("{part}::{name}");
        let journey = name.clone();
        let run = move || {
            let max_runs = if permissions::is_removed() { 1 } else { MAX_RUNS };
            for run in 1.. {
                let _running = suite.runtime.block_on(suite.stalls.ready());
                let start = Instant::now();
                let result = suite.runtime.block_on(JOURNEY.scope(journey.clone(), test(Arc::clone(&suite))));
                let Err(error) = result else { break };
                let stall = suite.stalls.longest_since(start).filter(|_| run < max_runs);
                let Some(stall) = stall else { return Err(Failed::from(format!("{error:#}"))) };
                eprintln!("{journey} is repeated: the local cloud stood still for {stall:.0?} ({error:#})");
            }
            Ok(())
        };
        Trial::test(name, run)
    }

    /// Returns the local cloud, which the first test starts.
    pub async fn cloud(&self) -> Result<&Arc<Cloud>> {
        let start = async || {
            let permissions = permissions::cloud_settings();
            let settings = permissions.iter().map(|(name, value)| (*name, value.as_str()));
            let settings: Vec<_> = settings.chain([("LAMBDA_ASYNC_RETRY_BASE_SECONDS", RETRY_DELAY)]).collect();
            let cloud = Arc::new(Cloud::start(&self.log, &settings).await?);
            let (stalls, watched) = (Arc::clone(&self.stalls), Arc::clone(&cloud));
            self.runtime.spawn(async move { stalls.watch(&watched).await });
            Ok(cloud)
        };
        self.cloud.get_or_try_init(start).await
    }

    /// Deploys the stack to a new account.
    pub async fn stage(&self) -> Result<Stage> {
        self.stage_with(&[]).await
    }

    /// Deploys the stack with these parameters to a new account.
    pub async fn stage_with(&self, parameters: &[(&str, &str)]) -> Result<Stage> {
        let cloud = self.cloud().await?;
        let number = self.accounts.fetch_add(1, Ordering::Relaxed);
        let account = Account::new(format!("{:012}", 200_000_000_000 + number))?;
        // When MiniStack updates a function, it kills the processes of all functions with that name, in any account.
        let prefix = format!("gatehouse-{number}");
        let deployment = deploy::deploy_gatehouse(cloud, &account, &prefix, parameters, Progress::silent()).await?;
        permissions::prepare(cloud, &account, &prefix).await?;
        // Journeys invoke the check themselves when they need it.
        deploy::delete_schedule(cloud, &account, &prefix).await?;
        let clients = Clients::new(cloud.endpoint, &account);
        let observer = Observer::start(&clients).await?;
        Ok(Stage { cloud: Arc::clone(cloud), account, clients, deployment, observer })
    }

    /// Stops the local cloud. Otherwise its supervisor would do so a moment after this process ends.
    pub fn stop(&self) {
        if let Some(cloud) = self.cloud.get() {
            cloud.stop();
        }
        self.directory.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
