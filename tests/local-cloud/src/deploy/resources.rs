//! Lists the resources of a stack.

use anyhow::Result;

use super::{Service, query, texts};
use crate::cloud::Cloud;
use crate::isolation::Account;

/// A resource of a stack, or of a stack nested in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its type, such as `AWS::SQS::Queue`.
    pub kind: String,
    /// Its physical id: a name, an ARN or a URL.
    pub physical_id: String,
    /// The logical id of the nested stack that it is in; empty for the root.
    pub template: String,
}

impl Resource {
    /// Returns its name: the last part of its physical id.
    pub fn name(&self) -> &str {
        self.physical_id.rsplit(['/', ':']).next().unwrap_or_default()
    }
}

/// Lists the resources of a stack and of those nested in it at any level.
pub async fn resources(cloud: &Cloud, account: &Account, stack: &str) -> Result<Vec<Resource>> {
    let mut found = Vec::new();
    let mut stacks = vec![(stack.to_owned(), String::new())];
    while let Some((stack, template)) = stacks.pop() {
        let parameters = [("StackName", stack.as_str())];
        let described = query(cloud, account, Service::CloudFormation, "DescribeStackResources", &parameters).await?;
        for resource in described.split("<member>") {
            let text = |tag: &str| texts(resource, tag).next().unwrap_or_default();
            let (kind, physical_id) = (text("ResourceType"), text("PhysicalResourceId"));
            if kind == "AWS::CloudFormation::Stack" {
                let path = if template.is_empty() { text("LogicalResourceId") } else { template.clone() };
                stacks.push((physical_id, path));
            } else if !physical_id.is_empty() {
                found.push(Resource { kind, physical_id, template: template.clone() });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_the_last_part_of_the_id() {
        for (id, name) in [
            ("gatehouse-button", "gatehouse-button"),
            ("arn:aws:sns:us-east-1:111122223333:gatehouse-button", "gatehouse-button"),
            ("http://127.0.0.1:4566/111122223333/gatehouse-alarm", "gatehouse-alarm"),
        ] {
            let resource = Resource { kind: String::new(), physical_id: id.to_owned(), template: String::new() };
            assert_eq!(resource.name(), name);
        }
    }
}
