//! Puts the shipped templates and zips into an account of the local cloud, with the AWS CLI, as anyone would into AWS.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cloud::Cloud;
use crate::isolation::{self, Account, Inherit, REGION};
use crate::keeper;
use crate::progress::Progress;
use crate::tools;

const LIMIT: Duration = Duration::from_mins(2);

/// A deployed stack.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The stack's name.
    pub stack: String,
    /// The stack's outputs.
    pub outputs: BTreeMap<String, String>,
}

impl Deployment {
    /// An output that must be there.
    pub fn output(&self, name: &str) -> Result<&str> {
        let found = self.outputs.get(name).map(String::as_str);
        found.ok_or_else(|| anyhow!("stack {} has no output {name}", self.stack))
    }

    /// What a function is called where it is deployed, by the name of its crate.
    pub fn function(&self, name: &str) -> Result<&str> {
        let is_it =
            |output: &str| output.strip_suffix("Function").is_some_and(|named| named.eq_ignore_ascii_case(name));
        let found = self.outputs.iter().find(|(output, _)| is_it(output)).map(|(_, deployed)| deployed.as_str());
        found.ok_or_else(|| anyhow!("stack {} does not name its function {name}", self.stack))
    }
}

/// Puts all of `infra/gatehouse.yaml` into an account, with every name beginning with `prefix`.
///
/// `more` are parameters besides those that a local cloud needs.
pub async fn everything(
    cloud: &Cloud,
    account: &Account,
    prefix: &str,
    more: &[(&str, &str)],
    progress: Progress,
) -> Result<Deployment> {
    let template = progress.step("Packaging templates and functions", package(cloud, account)).await?;
    let mut parameters = vec![
        ("Prefix", prefix),
        // The local cloud speaks plain HTTP.
        ("RequireTls", "false"),
        // A day in a greenhouse is a minute here: its thresholds are as short as that, and so are the pauses.
        ("ActuatorMinIntervalSeconds", "10"),
        ("PresenceGraceSeconds", "5"),
    ];
    parameters.extend(more);
    let deploying = async {
        let deployment = deploy(cloud, account, &template, prefix, &parameters).await?;
        overlay(cloud, account, &deployment).await?;
        Ok::<_, anyhow::Error>(deployment)
    };
    progress.step("Deploying", deploying).await
}

/// What functions may do on a resource of one kind in AWS, and on any resource only in the local cloud, which does not
/// know for these calls which one is asked for: the output that names the function, and the actions.
const UNRESOLVED: [(&str, &[&str]); 3] = [
    // AWS knows no such action: sending a batch is `sqs:SendMessage`.
    ("ForwardFunction", &["sqs:SendMessageBatch"]),
    ("JitrFunction", &["iot:AttachPolicy", "iot:DescribeCACertificate"]),
    ("RevokeFunction", &["iot:DescribeCACertificate", "iot:UpdateCACertificate"]),
];

/// Lets the functions do locally what the shipped policies let them do in AWS.
///
/// The shipped policies name certificates and authorities of one account and region. The local cloud checks a few of
/// these calls against `*` alone, which no such policy allows. So that the shipped ones can stay as they are, their
/// roles get a second policy here, which never leaves this machine.
async fn overlay(cloud: &Cloud, account: &Account, deployment: &Deployment) -> Result<()> {
    for (output, actions) in UNRESOLVED {
        let role = format!("{}-{REGION}", deployment.output(output)?);
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}],
        });
        let (policy, name) = (policy.to_string(), "local-cloud-only");
        let put = ["iam", "put-role-policy", "--role-name", &role, "--policy-name", name, "--policy-document", &policy];
        aws(cloud, account, put).await?;
    }
    Ok(())
}

/// Uploads the templates and zips under `infra/` to a bucket of the account; returns the template to deploy.
async fn package(cloud: &Cloud, account: &Account) -> Result<PathBuf> {
    tools::require_zips()?;
    let packaged = cloud.scratch.join(format!("packaged-{}.yaml", account.id()));
    // The accounts of a cloud share one space of bucket names.
    let bucket = format!("gatehouse-code-{}", account.id());
    aws(cloud, account, ["s3", "mb", &format!("s3://{bucket}")]).await?;
    let template = tools::root().join("infra/gatehouse.yaml");
    let arguments: [&OsStr; 8] = [
        "cloudformation".as_ref(),
        "package".as_ref(),
        "--template-file".as_ref(),
        template.as_ref(),
        "--s3-bucket".as_ref(),
        bucket.as_ref(),
        "--output-template-file".as_ref(),
        packaged.as_ref(),
    ];
    aws(cloud, account, arguments).await?;
    Ok(packaged)
}

/// Deploys a packaged template as a new stack, with these parameters, and waits until it is complete.
pub async fn deploy(
    cloud: &Cloud,
    account: &Account,
    template: &Path,
    stack: &str,
    parameters: &[(&str, &str)],
) -> Result<Deployment> {
    let template = template.to_str().context("the path of the template is not UTF-8")?;
    let overrides: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut arguments = vec!["cloudformation", "deploy", "--template-file", template, "--stack-name", stack];
    arguments.extend(["--capabilities", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]);
    // The CLI looks at a stack that it has told to change at once, and then after 30 seconds; here it takes one.
    arguments.push("--no-execute-changeset");
    if !overrides.is_empty() {
        arguments.push("--parameter-overrides");
        arguments.extend(overrides.iter().map(String::as_str));
    }
    let said = aws(cloud, account, arguments).await?;
    let change = said
        .split_whitespace()
        .find(|word| word.starts_with("arn:") && word.contains(":changeSet/"))
        .ok_or_else(|| anyhow!("`aws cloudformation deploy` named no change set; it said:\n{said}"))?;
    aws(cloud, account, ["cloudformation", "execute-change-set", "--change-set-name", change]).await?;

    let deadline = Instant::now() + LIMIT;
    loop {
        let stack = describe(cloud, account, stack).await?;
        match stack.status.as_str() {
            "CREATE_COMPLETE" | "UPDATE_COMPLETE" => return Ok(stack.into()),
            status if status.ends_with("_IN_PROGRESS") && Instant::now() < deadline => {
                sleep(Duration::from_millis(200)).await;
            }
            status => {
                let reasons = reasons(cloud, account, &stack.name).await?;
                bail!("stack {} ended as {status}:\n{reasons}", stack.name);
            }
        }
    }
}

#[derive(Deserialize)]
struct Stack {
    #[serde(rename = "StackName")]
    name: String,
    #[serde(rename = "StackStatus")]
    status: String,
    #[serde(default, rename = "Outputs")]
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    output_key: String,
    output_value: String,
}

impl From<Stack> for Deployment {
    fn from(stack: Stack) -> Self {
        let outputs = stack.outputs.into_iter().map(|output| (output.output_key, output.output_value)).collect();
        Self { stack: stack.name, outputs }
    }
}

async fn describe(cloud: &Cloud, account: &Account, stack: &str) -> Result<Stack> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Stacks {
        stacks: Vec<Stack>,
    }
    let said = aws(cloud, account, ["cloudformation", "describe-stacks", "--stack-name", stack]).await?;
    let found: Stacks =
        serde_json::from_str(&said).context("cannot read what `aws cloudformation describe-stacks` said")?;
    found.stacks.into_iter().next().ok_or_else(|| anyhow!("there is no stack {stack}"))
}

/// One line for each resource that failed, nested stacks included.
async fn reasons(cloud: &Cloud, account: &Account, stack: &str) -> Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Events {
        stack_events: Vec<Event>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Event {
        stack_name: String,
        logical_resource_id: String,
        #[serde(default)]
        physical_resource_id: String,
        resource_type: String,
        resource_status: String,
        #[serde(default)]
        resource_status_reason: String,
    }
    let mut lines = Vec::new();
    let mut stacks = vec![stack.to_owned()];
    while let Some(stack) = stacks.pop() {
        let arguments = ["cloudformation", "describe-stack-events", "--stack-name", &stack];
        let Ok(said) = aws(cloud, account, arguments).await else { continue };
        let events: Events = serde_json::from_str(&said).context("cannot read the stack's events")?;
        for event in events.stack_events {
            let nested =
                event.resource_type == "AWS::CloudFormation::Stack" && event.physical_resource_id.starts_with("arn:");
            if nested && event.stack_name != event.logical_resource_id && !stacks.contains(&event.physical_resource_id)
            {
                stacks.push(event.physical_resource_id);
            }
            if event.resource_status.ends_with("_FAILED") {
                lines.push(format!("  {}: {}", event.logical_resource_id, event.resource_status_reason));
            }
        }
        // A stack names itself in its events.
        stacks.retain(|next| *next != stack);
        if lines.len() > 50 {
            break;
        }
    }
    lines.dedup();
    Ok(if lines.is_empty() { "  the local cloud gave no reason; see its log".to_owned() } else { lines.join("\n") })
}

/// Runs the AWS CLI against the local cloud; its standard output, or an error with what it said of its failure.
pub async fn aws<A: AsRef<OsStr>>(
    cloud: &Cloud,
    account: &Account,
    arguments: impl IntoIterator<Item = A>,
) -> Result<String> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let mut command = isolation::command(tools::aws()?, Inherit::Basics, cloud.endpoint, account, &cloud.scratch);
    command.args(&arguments).args(["--output", "json"]);
    let mut cli = tokio::process::Command::from(keeper::command(&command)?);
    let mut cli = cli.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot run the AWS CLI")?;
    // Open as long as the CLI may run.
    let pipe = cli.stdin.take();
    let output = cli.wait_with_output().await.context("cannot run the AWS CLI")?;
    drop(pipe);
    let shown = || arguments.iter().take(2).map(|part| part.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
    ensure!(output.status.success(), "`aws {}` failed: {}", shown(), String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8(output.stdout).with_context(|| format!("`aws {}` said something that is not text", shown()))
}
