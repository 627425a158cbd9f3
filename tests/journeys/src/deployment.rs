//! The stack is deployed and deleted with the AWS CLI, as `make deploy` and `make destroy` do.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use local_cloud::aws::Clients;
use local_cloud::deploy::{self, aws};
use local_cloud::isolation::Account;
use local_cloud::tools;
use serde_json::json;

use crate::events::click;
use crate::suite::Suite;

pub fn trials(suite: &Arc<Suite>) -> Vec<Trial> {
    vec![suite.trial("stack", "is_deployed_and_deleted_with_the_aws_cli", with_the_cli)]
}

async fn with_the_cli(suite: Arc<Suite>) -> Result<()> {
    const STACK: &str = "gatehouse-cli";
    let (cloud, account) = (suite.cloud().await?, Account::new("400000000000")?);
    let clients = Clients::new(cloud.endpoint, &account);
    let packaged = cloud.scratch.join("packaged-cli.yaml");
    let packaged = packaged.to_str().context("the path is not UTF-8")?;
    let template = tools::root().join("infra/gatehouse.yaml");
    let template = template.to_str().context("the path is not UTF-8")?;
    aws(cloud, &account, ["s3", "mb", "s3://gatehouse-cli"]).await?;
    let package = ["cloudformation", "package", "--template-file", template, "--s3-bucket", "gatehouse-cli"];
    aws(cloud, &account, package.into_iter().chain(["--s3-prefix", STACK, "--output-template-file", packaged])).await?;

    let deploy = ["cloudformation", "deploy", "--template-file", packaged, "--stack-name", STACK]
        .into_iter()
        .chain(["--capabilities", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND", "--no-fail-on-empty-changeset"])
        .chain(["--parameter-overrides", "Prefix=gatehouse-cli", "RequireTls=false"]);
    aws(cloud, &account, deploy).await?;
    let (_, deployment) = deploy::describe(cloud, &account, STACK).await?;
    let button = deployment.function("button")?;
    let event = click("deployed-with-the-cli", "thing-1").to_string();
    let invoked = clients.lambda.invoke().function_name(button).payload(event.into_bytes().into()).send().await?;
    let response = invoked.payload().map(|blob| serde_json::from_slice(blob.as_ref())).transpose()?;
    ensure!(response == Some(json!({"outcome": "done"})), "button returned {response:?}");

    aws(cloud, &account, ["cloudformation", "delete-stack", "--stack-name", STACK]).await?;
    aws(cloud, &account, ["cloudformation", "wait", "stack-delete-complete", "--stack-name", STACK]).await?;
    let functions = clients.lambda.list_functions().send().await?;
    ensure!(functions.functions().is_empty(), "these functions are left: {:?}", functions.functions());
    Ok(())
}
