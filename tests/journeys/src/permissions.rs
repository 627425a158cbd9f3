//! `make prove-permissions`: shows that each permission of a deployed role is needed.
//!
//! First, all journeys run, or those of one function, and the local cloud records which permissions they use. Then each
//! permission in turn is removed from its role, and one of the journeys that used it runs again: it must fail, and a call
//! must have been denied for this reason. It is an error if no journey uses a permission, or if nothing fails without it.
//!
//! This cannot show the need of an action that the local cloud never checks for a role, such as Lambda's polling of a
//! queue, or that it checks for all resources only. The table lists such actions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::stream::{self, StreamExt};
use local_cloud::cloud::Cloud;
use local_cloud::deploy::{self, Deployment, RolePolicy};
use local_cloud::isolation::{Account, REGION};
use local_cloud::progress::Progress;
use local_cloud::tools;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Variable with the directory for the records of a run.
const DIRECTORY: &str = "PERMISSIONS_DIRECTORY";

/// Variable with the permission that every deployment of a run lacks, as JSON.
const WITHOUT: &str = "PERMISSIONS_WITHOUT";

/// Maximum number of concurrent runs. They mostly wait.
const MAX_CONCURRENT_RUNS: usize = 3;

/// Maximum number of journeys to try per permission.
const MAX_JOURNEYS: usize = 6;

/// How long a journey waits when nothing happens, in seconds. Without a permission, many waits must time out.
const PATIENCE_SECONDS: &str = "20";

/// How long a journey may take without a permission. One that takes longer counts as failed.
const MAX_RUN: Duration = Duration::from_mins(2);

/// Statements and actions of calls that only save time: calls during INIT, which open a connection, batches of writes,
/// and the release of a claim after a failure, so that a retry need not wait until the claim expires. If one is denied,
/// nothing fails.
const ONLY_FASTER: [(&str, &str); 9] = [
    ("Alarms", "dynamodb:PartiQLUpdate"),
    ("Idempotency", "dynamodb:DeleteItem"),
    ("Quarantine", "dynamodb:GetItem"),
    ("Notify", "sns:GetTopicAttributes"),
    ("NotifyOperators", "sns:GetTopicAttributes"),
    ("WarmUp", "iot:GetThingShadow"),
    ("Claim", "dynamodb:GetItem"),
    ("ReceiveFromQueue", "sqs:GetQueueAttributes"),
    ("ReceiveFromAndSendToQueue", "sqs:GetQueueAttributes"),
];

/// Statements and actions for AWS itself, which uses a function's role: for Lambda's poller and on-failure destination.
const FOR_AWS: [(&str, &str); 5] = [
    ("ReceiveFromQueue", "sqs:ReceiveMessage"),
    ("ReceiveFromQueue", "sqs:DeleteMessage"),
    ("ReceiveFromAndSendToQueue", "sqs:ReceiveMessage"),
    ("ReceiveFromAndSendToQueue", "sqs:DeleteMessage"),
    ("KeepFailedEvents", "sqs:SendMessage"),
];

/// Suffixes of the names of roles that AWS IoT and EventBridge use.
const ROLES_OF_AWS: [&str; 2] = ["-rule", "-schedule"];

tokio::task_local! {
    /// The name of the current journey.
    pub static JOURNEY: String;
}

/// One action that one statement allows a role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Permission {
    /// The role, without the prefix and the region.
    role: String,
    policy: String,
    /// The statement's position in the policy.
    statement: usize,
    sid: String,
    action: String,
}

impl Display for Permission {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.role, self.sid, self.action)
    }
}

/// A recorded decision of the local cloud about a request.
#[derive(Debug, Deserialize)]
struct Decision {
    principal: String,
    action: String,
    /// `Allow`, `Deny`, or `ImplicitDeny`.
    result: String,
    sid: String,
}

impl Decision {
    /// Returns the account and the role of the request, the latter without prefix and region.
    fn asked(&self) -> Option<(&str, &str)> {
        let mut parts = self.principal.split(':').skip(4);
        let account = parts.next()?;
        let role = parts.next()?.strip_prefix("assumed-role/")?.split('/').next()?;
        Some((account, short_name(role)?))
    }
}

/// Returns the name of a role without prefix (`gatehouse-7`) and region.
fn short_name(role: &str) -> Option<&str> {
    let (_number, name) = role.strip_prefix("gatehouse-")?.split_once('-')?;
    name.strip_suffix(REGION)?.strip_suffix('-')
}

/// An account, and the journey that deployed to it.
#[derive(Debug, Serialize, Deserialize)]
struct Deployed {
    account: String,
    journey: String,
}

/// The result of removing a permission.
#[derive(Debug)]
enum Verdict {
    /// This journey failed, and a call was denied.
    Needed(String),
    /// A call was denied, or none was made, but it only saves time.
    OnlyFaster,
    /// The local cloud never checks this: AWS itself uses the role, or the action is not checked at all.
    NotChecked,
    /// The local cloud checks this action for all resources only, which an additional policy allows.
    LocalPolicy,
    /// This other role needs the same statement.
    ShownFor(String),
    /// No journey uses it.
    Unused,
    /// None of these journeys failed because of its removal.
    NothingFailed(Vec<String>),
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Needed(journey) => f.write_str(journey),
            Self::OnlyFaster => f.write_str("(only saves time)"),
            Self::NotChecked => f.write_str("(the local cloud does not check it)"),
            Self::LocalPolicy => f.write_str("(the local cloud checks it for all resources only)"),
            Self::ShownFor(role) => write!(f, "(as for {role})"),
            Self::Unused => f.write_str("UNUSED"),
            Self::NothingFailed(journeys) => write!(f, "NOTHING FAILED: {}", journeys.join(", ")),
        }
    }
}

/// Returns the setting that makes the local cloud record its decisions, if this run needs them.
pub fn cloud_settings() -> Option<(&'static str, String)> {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY)?);
    Some(("PERMISSION_LOG", directory.join("decisions").to_string_lossy().into_owned()))
}

/// Returns whether this run lacks a permission, so that its journey is expected to fail.
pub fn is_removed() -> bool {
    std::env::var_os(WITHOUT).is_some()
}

/// Records a journey's deployment, and removes the permission that this run lacks, if any.
pub async fn prepare(cloud: &Cloud, account: &Account, prefix: &str) -> Result<()> {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return Ok(()) };
    let journey = JOURNEY.try_with(Clone::clone).context("no journey is running")?;
    let line = serde_json::to_string(&Deployed { account: account.id().to_owned(), journey })?;
    let mut file = OpenOptions::new().create(true).append(true).open(Path::new(&directory).join("deployed"))?;
    writeln!(file, "{line}")?;
    let Ok(without) = std::env::var(WITHOUT) else { return Ok(()) };
    let permission: Permission = serde_json::from_str(&without)?;
    let role = format!("{prefix}-{}-{REGION}", permission.role);
    let mut policy = deploy::role_policy(cloud, account, &role, &permission.policy).await?;
    let actions = policy.document.pointer_mut(&format!("/Statement/{}/Action", permission.statement));
    match actions.context("there is no such statement")? {
        Value::Array(actions) if actions.len() > 1 => actions.retain(|action| *action != permission.action),
        // A statement must have an action.
        other => *other = "sts:GetCallerIdentity".into(),
    }
    deploy::put_role_policy(cloud, account, &policy).await
}

/// Proves the permissions of all roles, or of those whose name starts with `function`.
pub fn prove(function: Option<&str>) -> ExitCode {
    let result =
        Runtime::new().context("failed to start a runtime").and_then(|runtime| runtime.block_on(run(function)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(function: Option<&str>) -> Result<bool> {
    let directory = tools::root().join("target/permissions");
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory)?;
    let mut selected = deployed_permissions(&directory).await?;
    selected.retain(|permission| function.is_none_or(|function| permission.role.starts_with(function)));
    let count = selected.len();
    ensure!(count > 0, "no role's name starts with {}", function.unwrap_or_default());
    let journeys_of = function.map(|function| format!(" of {function}")).unwrap_or_default();
    eprintln!("Running all journeys{journeys_of}, to see which of {count} permissions they use …");
    let all = directory.join("all");
    // Selected by name, as `make test FN=…` selects them.
    if !journeys(&all, function.as_slice(), None).await? {
        // The permissions that they used are still recorded, and each verdict depends on a denied call.
        eprintln!("Some journeys fail with all permissions: see {}", all.join("output").display());
    }
    let usage = Usage::read(&all)?;

    let mut verdicts = stream::iter(selected.into_iter().enumerate())
        .map(async |(number, permission)| {
            let verdict = verdict(&directory.join(number.to_string()), &permission, &usage).await;
            verdict.map(|verdict| (permission, verdict))
        })
        .buffer_unordered(MAX_CONCURRENT_RUNS);
    let mut table = Vec::with_capacity(count);
    while let Some(verdict) = verdicts.next().await {
        let (permission, verdict) = verdict?;
        eprintln!("{}/{count} {permission}: {verdict}", table.len() + 1);
        table.push((permission, verdict));
    }
    table.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut all_needed = true;
    println!("{:<26} {:<22} {:<34} shown by", "role", "statement", "action");
    let shown: BTreeMap<_, _> = table
        .iter()
        .filter(|(_, verdict)| matches!(verdict, Verdict::Needed(_)))
        .map(|(permission, _)| ((permission.sid.clone(), permission.action.clone()), permission.role.clone()))
        .collect();
    for (Permission { role, sid, action, .. }, mut verdict) in table {
        // The library's statements have the same names in all roles, and the same code makes their calls.
        if let (Verdict::Unused | Verdict::NothingFailed(_), Some(other)) =
            (&verdict, shown.get(&(sid.clone(), action.clone())))
        {
            verdict = Verdict::ShownFor(other.clone());
        }
        println!("{role:<26} {sid:<22} {action:<34} {verdict}");
        all_needed &= !matches!(verdict, Verdict::Unused | Verdict::NothingFailed(_));
    }
    if !all_needed && function.is_some() {
        eprintln!("Journeys of other functions may show the rest: run `make prove-permissions` without FN.");
    }
    Ok(all_needed)
}

/// Lists the permissions of a deployment's roles.
async fn deployed_permissions(directory: &Path) -> Result<Vec<Permission>> {
    let cloud = Cloud::start(&directory.join("cloud.log"), &[]).await?;
    let (account, prefix) = (Account::primary(), "gatehouse-0");
    let _: Deployment = deploy::deploy_gatehouse(&cloud, &account, prefix, &[], Progress::silent()).await?;
    let mut found = Vec::new();
    for RolePolicy { role, policy, document } in deploy::role_policies(&cloud, &account, prefix).await? {
        // This policy exists in the local cloud only.
        if policy == deploy::LOCAL_POLICY {
            continue;
        }
        let role = short_name(&role).with_context(|| format!("unexpected role {role}"))?;
        let statements = document.get("Statement").and_then(Value::as_array).context("a policy has no statements")?;
        for (number, statement) in statements.iter().enumerate() {
            if statement.get("Effect") != Some(&Value::from("Allow")) {
                continue;
            }
            let actions = match statement.get("Action") {
                Some(Value::Array(actions)) => actions.clone(),
                Some(action) => vec![action.clone()],
                None => bail!("a statement of {role} has no action"),
            };
            for action in actions {
                found.push(Permission {
                    role: role.to_owned(),
                    policy: policy.clone(),
                    statement: number,
                    sid: statement.get("Sid").and_then(Value::as_str).unwrap_or_default().to_owned(),
                    action: action.as_str().context("an action is not a string")?.to_owned(),
                });
            }
        }
    }
    cloud.stop();
    Ok(found)
}

/// The permissions that journeys used in the run with all permissions.
struct Usage {
    /// The journeys that used a permission, with the number of uses, by role, statement and action.
    journeys: BTreeMap<(String, String, String), BTreeMap<String, usize>>,
    /// All actions, in lower case, that the local cloud checked for a role.
    checked: BTreeSet<String>,
}

impl Usage {
    fn read(directory: &Path) -> Result<Self> {
        let deployed: Vec<Deployed> = read_lines(&directory.join("deployed"))?;
        let journeys: BTreeMap<_, _> = deployed.into_iter().map(|one| (one.account, one.journey)).collect();
        let mut usage = Self { journeys: BTreeMap::new(), checked: BTreeSet::new() };
        for decision in read_lines::<Decision>(&directory.join("decisions"))? {
            let Some((account, role)) = decision.asked() else { continue };
            usage.checked.insert(decision.action.to_ascii_lowercase());
            if decision.result != "Allow" {
                continue;
            }
            if let Some(journey) = journeys.get(account) {
                let key = (role.to_owned(), decision.sid.clone(), decision.action.to_ascii_lowercase());
                *usage.journeys.entry(key).or_default().entry(journey.clone()).or_default() += 1;
            }
        }
        Ok(usage)
    }

    /// Returns the journeys that used a permission: first those of the role's function, and among them those with the
    /// fewest uses, which are the shortest.
    fn of(&self, permission: &Permission) -> Vec<String> {
        let Permission { role, sid, action, .. } = permission;
        let key = (role.clone(), sid.clone(), action.to_ascii_lowercase());
        let mut used: Vec<_> = self.journeys.get(&key).into_iter().flatten().collect();
        used.sort_by_key(|(journey, count)| (!journey.contains(role.as_str()), **count));
        used.into_iter().map(|(journey, _)| journey.clone()).collect()
    }

    /// Returns whether a permission is used through the policy for the local cloud, whose statements have no name.
    fn is_local(&self, permission: &Permission) -> bool {
        let Permission { role, action, .. } = permission;
        self.journeys.contains_key(&(role.clone(), String::new(), action.to_ascii_lowercase()))
    }
}

async fn verdict(directory: &Path, permission: &Permission, usage: &Usage) -> Result<Verdict> {
    let mut journeys_tried = Vec::new();
    let candidates = usage.of(permission);
    let named = (permission.sid.as_str(), permission.action.as_str());
    if candidates.is_empty() {
        if FOR_AWS.contains(&named) || ROLES_OF_AWS.iter().any(|end| permission.role.ends_with(end)) {
            return Ok(Verdict::NotChecked);
        }
        if ONLY_FASTER.contains(&named) {
            return Ok(Verdict::OnlyFaster);
        }
        return Ok(match usage.checked.contains(&permission.action.to_ascii_lowercase()) {
            _ if usage.is_local(permission) => Verdict::LocalPolicy,
            true => Verdict::Unused,
            false => Verdict::NotChecked,
        });
    }
    for (number, journey) in candidates.into_iter().take(MAX_JOURNEYS).enumerate() {
        let directory = directory.join(number.to_string());
        let passed = journeys(&directory, &["--exact", &journey], Some(permission)).await?;
        let is_denied = read_lines::<Decision>(&directory.join("decisions"))?.iter().any(|decision| {
            decision.result != "Allow"
                && decision.action.eq_ignore_ascii_case(&permission.action)
                && decision.asked().is_some_and(|(_, role)| role == permission.role)
        });
        match (passed, is_denied) {
            (false, true) => return Ok(Verdict::Needed(journey)),
            (true, true) if ONLY_FASTER.contains(&named) => return Ok(Verdict::OnlyFaster),
            _ => journeys_tried.push(journey),
        }
    }
    Ok(Verdict::NothingFailed(journeys_tried))
}

/// Runs the journeys that these arguments select, with all permissions or without one. Returns whether they passed.
async fn journeys(directory: &Path, arguments: &[&str], without: Option<&Permission>) -> Result<bool> {
    std::fs::create_dir_all(directory)?;
    let output = File::create(directory.join("output"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).env(DIRECTORY, directory);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    if let Some(without) = without {
        command.env(WITHOUT, serde_json::to_string(without)?).env("PATIENCE_SECONDS", PATIENCE_SECONDS);
    }
    let mut run = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    let status = match without {
        None => Ok(run.wait().await),
        Some(_) => timeout(MAX_RUN, run.wait()).await,
    };
    Ok(status.is_ok_and(|status| status.is_ok_and(|status| status.success())))
}

/// Returns the records in a file; an empty list if the file does not exist.
fn read_lines<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let file = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
    BufReader::new(file).lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}
