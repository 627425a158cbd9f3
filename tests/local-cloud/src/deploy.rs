//! Deploys the shipped templates and zips to an account of the local cloud.
//!
//! `aws cloudformation package` uploads them as for AWS, once for all accounts. The stacks are created with direct
//! requests to CloudFormation, because starting the AWS CLI takes longer than creating a stack here.

mod resources;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::cloud::{Cloud, send};
use crate::isolation::{self, Account, Inherit, REGION};
use crate::progress::Progress;
use crate::supervisor;
use crate::tools;

pub use resources::{Resource, resources};

/// How long a deployment may take. It takes a second on an idle machine.
const TIMEOUT: Duration = Duration::from_mins(10);

/// The bucket of the packaged templates and zips.
const BUCKET: &str = "gatehouse-code";

/// The name of an additional role policy that exists in the local cloud only.
pub const LOCAL_POLICY: &str = "local-cloud-only";

/// A deployed stack.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The stack's name.
    pub stack: String,
    /// The stack's outputs.
    pub outputs: BTreeMap<String, String>,
}

impl Deployment {
    /// Returns an output. A missing one is an error.
    pub fn output(&self, name: &str) -> Result<&str> {
        let found = self.outputs.get(name).map(String::as_str);
        found.ok_or_else(|| anyhow!("stack {} has no output {name}", self.stack))
    }

    /// Returns a function's deployed name by the name of its crate.
    pub fn function(&self, name: &str) -> Result<&str> {
        let is_it =
            |output: &str| output.strip_suffix("Function").is_some_and(|named| named.eq_ignore_ascii_case(name));
        let found = self.outputs.iter().find(|(output, _)| is_it(output)).map(|(_, deployed)| deployed.as_str());
        found.ok_or_else(|| anyhow!("stack {} has no output with the name of function {name}", self.stack))
    }
}

/// Deploys `infra/gatehouse.yaml` to an account. All names start with `prefix`. `parameters` are added to those that
/// the local cloud needs.
pub async fn deploy_gatehouse(
    cloud: &Cloud,
    account: &Account,
    prefix: &str,
    parameters: &[(&str, &str)],
    progress: Progress,
) -> Result<Deployment> {
    let package = cloud.template.get_or_try_init(|| package(cloud));
    let template = progress.step("Packaging templates and functions", package).await?;
    let mut all_parameters = vec![
        ("Prefix", prefix),
        // The local cloud uses plain HTTP.
        ("RequireTls", "false"),
        ("LocalCloud", "true"),
        // Scenarios compress hours into seconds.
        ("ActuatorMinIntervalSeconds", "10"),
        ("PresenceGraceSeconds", "10"),
    ];
    all_parameters.extend(parameters);
    let deploying = async {
        let deployment = deploy_stack(cloud, account, template, prefix, &all_parameters).await?;
        add_local_policies(cloud, account, &deployment).await?;
        Ok::<_, anyhow::Error>(deployment)
    };
    progress.step("Deploying", deploying).await
}

/// Actions that the local cloud checks against the resource `*` only, with the stack output that names the function.
const UNSCOPED_ACTIONS: [(&str, &[&str]); 3] = [
    // AWS has no such action: a batch needs `sqs:SendMessage` there.
    ("ForwardFunction", &["sqs:SendMessageBatch"]),
    ("JitrFunction", &["iot:AttachPolicy", "iot:DescribeCACertificate"]),
    ("RevokeFunction", &["iot:DescribeCACertificate", "iot:UpdateCACertificate"]),
];

/// Adds a policy to the functions' roles that allows `UNSCOPED_ACTIONS`.
///
/// The shipped policies name specific resources, which the local cloud cannot resolve for a few actions. They stay
/// unchanged.
pub async fn add_local_policies(cloud: &Cloud, account: &Account, deployment: &Deployment) -> Result<()> {
    for (output, actions) in UNSCOPED_ACTIONS {
        let role = format!("{}-{REGION}", deployment.output(output)?);
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}],
        });
        put_local_policy(cloud, account, &role, &policy).await?;
    }
    Ok(())
}

/// Puts a role's additional policy, which exists in the local cloud only.
pub async fn put_local_policy(cloud: &Cloud, account: &Account, role: &str, policy: &Value) -> Result<()> {
    let (role, policy, document) = (role.to_owned(), LOCAL_POLICY.to_owned(), policy.clone());
    put_role_policy(cloud, account, &RolePolicy { role, policy, document }).await
}

/// An inline policy of a role.
#[derive(Debug)]
pub struct RolePolicy {
    /// The role's name.
    pub role: String,
    /// The policy's name.
    pub policy: String,
    /// The policy.
    pub document: Value,
}

/// Returns the inline policies of all roles whose names start with `prefix`.
pub async fn role_policies(cloud: &Cloud, account: &Account, prefix: &str) -> Result<Vec<RolePolicy>> {
    let mut found = Vec::new();
    let roles = query(cloud, account, Service::Iam, "ListRoles", &[("MaxItems", "1000")]).await?;
    for role in texts(&roles, "RoleName").filter(|role| role.starts_with(prefix)) {
        let policies = query(cloud, account, Service::Iam, "ListRolePolicies", &[("RoleName", &role)]).await?;
        for policy in texts(&policies, "member") {
            found.push(role_policy(cloud, account, &role, &policy).await?);
        }
    }
    Ok(found)
}

/// Returns an inline policy of a role.
pub async fn role_policy(cloud: &Cloud, account: &Account, role: &str, policy: &str) -> Result<RolePolicy> {
    let parameters = [("RoleName", role), ("PolicyName", policy)];
    let found = query(cloud, account, Service::Iam, "GetRolePolicy", &parameters).await?;
    let document = texts(&found, "PolicyDocument").next().context("the policy has no document")?;
    // IAM returns it URL-encoded.
    let document =
        form_urlencoded::parse(document.replace('+', "%2B").as_bytes()).next().map(|(text, _)| text.into_owned());
    let document = serde_json::from_str(&document.unwrap_or_default()).context("the policy is not JSON")?;
    Ok(RolePolicy { role: role.to_owned(), policy: policy.to_owned(), document })
}

/// Puts an inline policy of a role.
pub async fn put_role_policy(cloud: &Cloud, account: &Account, policy: &RolePolicy) -> Result<()> {
    let document = policy.document.to_string();
    let parameters = [("RoleName", &*policy.role), ("PolicyName", &*policy.policy), ("PolicyDocument", &*document)];
    query(cloud, account, Service::Iam, "PutRolePolicy", &parameters).await.map(drop)
}

/// Uploads the templates, at every level of nesting, and the zips to a bucket. Returns the packaged root template.
async fn package(cloud: &Cloud) -> Result<String> {
    tools::require_zips()?;
    let account = Account::primary();
    let packaged = cloud.scratch.join("packaged.yaml");
    let create = Request::put(format!("/{BUCKET}")).header("authorization", authorization(&account, "s3"));
    let (status, _) = send(cloud.endpoint, create.body(Full::default())?).await?;
    ensure!(status.is_success(), "creating the bucket {BUCKET} returned {status}");
    let template = tools::root().join("infra/gatehouse.yaml");
    let arguments: [&OsStr; 8] = [
        "cloudformation".as_ref(),
        "package".as_ref(),
        "--template-file".as_ref(),
        template.as_ref(),
        "--s3-bucket".as_ref(),
        BUCKET.as_ref(),
        "--output-template-file".as_ref(),
        packaged.as_ref(),
    ];
    aws(cloud, &account, arguments).await?;
    read(&packaged)
}

/// Creates a stack from a template and waits until it is complete.
pub async fn deploy_stack(
    cloud: &Cloud,
    account: &Account,
    template: &str,
    stack: &str,
    parameters: &[(&str, &str)],
) -> Result<Deployment> {
    let mut create = vec![
        ("StackName".to_owned(), stack),
        ("TemplateBody".to_owned(), template),
        ("Capabilities.member.1".to_owned(), "CAPABILITY_NAMED_IAM"),
        ("Capabilities.member.2".to_owned(), "CAPABILITY_AUTO_EXPAND"),
    ];
    for (number, (name, value)) in parameters.iter().enumerate() {
        let member = format!("Parameters.member.{}", number + 1);
        create.extend([(format!("{member}.ParameterKey"), *name), (format!("{member}.ParameterValue"), *value)]);
    }
    let create: Vec<_> = create.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    query(cloud, account, Service::CloudFormation, "CreateStack", &create).await?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let (status, deployment) = describe(cloud, account, stack).await?;
        match status.as_str() {
            "CREATE_COMPLETE" => return Ok(deployment),
            status if status.ends_with("_IN_PROGRESS") && Instant::now() < deadline => {
                sleep(Duration::from_millis(50)).await;
            }
            status => {
                let reasons = reasons(cloud, account, stack).await?;
                bail!("stack {stack} failed with {status}:\n{reasons}");
            }
        }
    }
}

/// Deletes a stack, without waiting until it is gone.
pub async fn delete_stack(cloud: &Cloud, account: &Account, stack: &str) -> Result<()> {
    query(cloud, account, Service::CloudFormation, "DeleteStack", &[("StackName", stack)]).await.map(drop)
}

/// Deletes the schedule of the check that `alarm` runs every minute.
pub async fn delete_schedule(cloud: &Cloud, account: &Account, prefix: &str) -> Result<()> {
    let delete = Request::delete(format!("/schedules/{prefix}-alarm-due?groupName={prefix}-alarm"));
    let delete = delete.header("authorization", authorization(account, "scheduler"));
    let (status, response) = send(cloud.endpoint, delete.body(Full::default())?).await?;
    ensure!(status.is_success(), "DeleteSchedule returned {status}: {}", String::from_utf8_lossy(&response));
    Ok(())
}

/// Returns a stack's status, and the stack with its outputs.
pub async fn describe(cloud: &Cloud, account: &Account, stack: &str) -> Result<(String, Deployment)> {
    let described = query(cloud, account, Service::CloudFormation, "DescribeStacks", &[("StackName", stack)]).await?;
    let status = texts(&described, "StackStatus").next().with_context(|| format!("there is no stack {stack}"))?;
    let outputs = texts(&described, "OutputKey").zip(texts(&described, "OutputValue")).collect();
    Ok((status, Deployment { stack: stack.to_owned(), outputs }))
}

/// Lists the resources that failed, one per line, including those of stacks nested at any level.
async fn reasons(cloud: &Cloud, account: &Account, stack: &str) -> Result<String> {
    let mut lines = Vec::new();
    let mut stacks = vec![stack.to_owned()];
    while let Some(stack) = stacks.pop() {
        let parameters = [("StackName", stack.as_str())];
        let Ok(events) = query(cloud, account, Service::CloudFormation, "DescribeStackEvents", &parameters).await
        else {
            continue;
        };
        for event in events.split("<member>") {
            let text = |tag: &str| texts(event, tag).next().unwrap_or_default();
            let (id, resource) = (text("PhysicalResourceId"), text("LogicalResourceId"));
            let is_stack = text("ResourceType") == "AWS::CloudFormation::Stack" && id.starts_with("arn:");
            // A stack lists itself in its events.
            if is_stack && text("StackName") != resource && !stacks.contains(&id) {
                stacks.push(id);
            }
            if text("ResourceStatus").ends_with("_FAILED") {
                lines.push(format!("  {resource}: {}", text("ResourceStatusReason")));
            }
        }
        if lines.len() > 50 {
            break;
        }
    }
    lines.dedup();
    Ok(if lines.is_empty() {
        "  no reason is known; see the log of the local cloud".to_owned()
    } else {
        lines.join("\n")
    })
}

/// A service whose API has the Query protocol.
#[derive(Debug, Clone, Copy)]
enum Service {
    CloudFormation,
    Iam,
}

/// Calls an action of a service and returns the response in XML.
async fn query(
    cloud: &Cloud,
    account: &Account,
    service: Service,
    action: &str,
    parameters: &[(&str, &str)],
) -> Result<String> {
    let (name, version) = match service {
        Service::CloudFormation => ("cloudformation", "2010-05-15"),
        Service::Iam => ("iam", "2010-05-08"),
    };
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("Action", action), ("Version", version)])
        .extend_pairs(parameters)
        .finish();
    let request = Request::post("/")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", authorization(account, name));
    let (status, response) = send(cloud.endpoint, request.body(body.into())?).await?;
    let response = String::from_utf8_lossy(&response).into_owned();
    ensure!(status.is_success(), "{action} returned {status}: {response}");
    Ok(response)
}

/// Returns the header that names the account. The local cloud does not verify signatures.
fn authorization(account: &Account, service: &str) -> String {
    let credential = format!("{}/20260101/{REGION}/{service}/aws4_request", account.id());
    format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=none")
}

/// Returns the text of each element with this name in an XML response.
fn texts<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = String> + use<'a> {
    let (start, end) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (text, after) = rest.split_once(&start)?.1.split_once(&end)?;
        rest = after;
        Some(text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"))
    })
}

/// Reads a template.
pub fn read(template: &Path) -> Result<String> {
    std::fs::read_to_string(template).with_context(|| format!("failed to read {}", template.display()))
}

/// Runs the AWS CLI against the local cloud and returns its standard output.
pub async fn aws<A: AsRef<OsStr>>(
    cloud: &Cloud,
    account: &Account,
    arguments: impl IntoIterator<Item = A>,
) -> Result<String> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let mut command = isolation::command(tools::aws()?, Inherit::Minimal, cloud.endpoint, account, &cloud.scratch);
    command.args(&arguments).args(["--output", "json"]);
    let mut cli = tokio::process::Command::from(supervisor::command(&command)?);
    let mut cli = cli.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("failed to run the AWS CLI")?;
    // Closing this kills the CLI.
    let pipe = cli.stdin.take();
    let output = cli.wait_with_output().await.context("failed to run the AWS CLI")?;
    drop(pipe);
    let shown = || arguments.iter().take(2).map(|part| part.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
    ensure!(output.status.success(), "`aws {}` failed: {}", shown(), String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8(output.stdout).with_context(|| format!("the output of `aws {}` is not UTF-8", shown()))
}
