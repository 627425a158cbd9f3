//! List prices, from `prices.json`: one record per item and region, with its date and source.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::status::UsageError;

const JSON: &str = include_str!("../../prices.json");

/// Something that AWS charges for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each is described by its unit")]
pub enum Item {
    IotMinutes,
    IotMessages,
    IotRules,
    IotActions,
    IotShadows,
    SqsRequests,
    LambdaRequests,
    LambdaX86Seconds,
    LambdaArmSeconds,
    DynamodbWrites,
    DynamodbReads,
    DynamodbStorage,
    DynamodbBackup,
    SnsPublishes,
    SnsEmails,
    CloudwatchMetrics,
    CloudwatchAlarms,
    CloudwatchComposites,
    CloudwatchDashboards,
    CloudwatchLogs,
    CloudwatchLogStorage,
    SchedulerInvocations,
}

impl Item {
    /// Returns the service that it belongs to.
    pub fn service(self) -> &'static str {
        match self {
            Self::IotMinutes | Self::IotMessages | Self::IotRules | Self::IotActions | Self::IotShadows => {
                "AWS IoT Core"
            }
            Self::SqsRequests => "Amazon SQS",
            Self::LambdaRequests | Self::LambdaX86Seconds | Self::LambdaArmSeconds => "AWS Lambda",
            Self::DynamodbWrites | Self::DynamodbReads | Self::DynamodbStorage | Self::DynamodbBackup => {
                "Amazon DynamoDB"
            }
            Self::SnsPublishes | Self::SnsEmails => "Amazon SNS",
            Self::CloudwatchMetrics
            | Self::CloudwatchAlarms
            | Self::CloudwatchComposites
            | Self::CloudwatchDashboards
            | Self::CloudwatchLogs
            | Self::CloudwatchLogStorage => "Amazon CloudWatch",
            Self::SchedulerInvocations => "EventBridge Scheduler",
        }
    }

    /// Returns the unit of its quantity, in the plural.
    pub fn unit(self) -> &'static str {
        match self {
            Self::IotMinutes => "minutes of connection",
            Self::IotMessages => "messages of 5 KB",
            Self::IotRules => "rules triggered",
            Self::IotActions => "rule actions",
            Self::IotShadows => "shadow and registry operations",
            Self::SqsRequests => "queue requests",
            Self::LambdaRequests => "invocations",
            Self::LambdaX86Seconds => "GB-seconds, x86_64",
            Self::LambdaArmSeconds => "GB-seconds, arm64",
            Self::DynamodbWrites => "write request units",
            Self::DynamodbReads => "read request units",
            Self::DynamodbStorage => "GB of tables",
            Self::DynamodbBackup => "GB of point-in-time recovery",
            Self::SnsPublishes => "notifications published",
            Self::SnsEmails => "emails",
            Self::CloudwatchMetrics => "custom metrics",
            Self::CloudwatchAlarms => "metrics watched by alarms",
            Self::CloudwatchComposites => "composite alarms",
            Self::CloudwatchDashboards => "dashboards",
            Self::CloudwatchLogs => "GB of logs ingested",
            Self::CloudwatchLogStorage => "GB of logs stored",
            Self::SchedulerInvocations => "scheduled invocations",
        }
    }
}

/// The price of an item in a region.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Price {
    /// The item.
    pub item: Item,
    /// The region.
    pub region: String,
    /// The price of `per` units, in USD; absent if there are tiers.
    #[serde(default)]
    usd: f64,
    /// Prices by volume, smallest first.
    #[serde(default)]
    tiers: Vec<Tier>,
    /// The number of units that the price is for.
    per: f64,
    /// When the source was published or, if it has no date, when it was read.
    pub date: String,
    /// The URL of the source.
    pub source: String,
}

/// A price up to a volume.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Tier {
    /// The end of the tier, in units; `None` for the last tier.
    up_to: Option<f64>,
    usd: f64,
}

impl Price {
    /// Returns the monthly price of a quantity, in USD.
    pub fn of(&self, quantity: f64) -> f64 {
        if self.tiers.is_empty() {
            return quantity * self.usd / self.per;
        }
        let (mut total, mut from) = (0.0, 0.0);
        for tier in &self.tiers {
            let to = tier.up_to.map_or(quantity, |up_to| up_to.min(quantity));
            total += (to - from).max(0.0) * tier.usd / self.per;
            from = to.max(from);
        }
        total
    }
}

/// The prices in a region.
#[derive(Debug, Clone)]
pub struct Prices(Vec<Price>);

impl Prices {
    /// Returns the prices in a region. The error for an unknown region lists the known ones.
    pub fn of_region(region: &str) -> Result<Self> {
        let all: Vec<Price> = serde_json::from_str(JSON).context("failed to parse the price list")?;
        let mut regions: Vec<_> = all.iter().map(|price| price.region.clone()).collect();
        regions.dedup();
        let prices: Vec<_> = all.into_iter().filter(|price| price.region == region).collect();
        if prices.is_empty() {
            let why = format!("there are no prices for region {region}; use {}", regions.join(" or "));
            return Err(UsageError(why).into());
        }
        Ok(Self(prices))
    }

    /// The price of an item.
    pub fn get(&self, item: Item) -> Result<&Price> {
        let found = self.0.iter().find(|price| price.item == item);
        found.with_context(|| format!("the price list has no price for {}", item.unit()))
    }

    /// Returns the oldest and the newest date of a price.
    pub fn dates(&self) -> (&str, &str) {
        let dates = || self.0.iter().map(|price| price.date.as_str());
        (dates().min().unwrap_or_default(), dates().max().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_region_has_one_dated_price_for_each_item() {
        let items = |region| {
            let Prices(prices) = Prices::of_region(region).expect("prices");
            for price in &prices {
                assert!(price.source.starts_with("https://"), "{price:?}");
                assert!(price.date.parse::<crate::selection::PointInTime>().is_ok(), "{price:?}");
                assert!(price.of(1_000_000.0) > 0.0, "{price:?}");
            }
            let items: HashSet<_> = prices.iter().map(|price| price.item).collect();
            assert_eq!(items.len(), prices.len(), "an item appears twice in {region}");
            items
        };
        assert_eq!(items("us-east-1"), items("eu-west-1"));
        assert_eq!(items("us-east-1").len(), 22);
    }

    #[test]
    fn tiers_apply_one_after_the_other() {
        let prices = Prices::of_region("us-east-1").expect("prices");
        let messages = prices.get(Item::IotMessages).expect("a price");
        let is = |quantity: f64, usd: f64| assert!((messages.of(quantity) - usd).abs() < 1e-6, "{quantity}");
        is(1e6, 1.0);
        is(1e9, 1_000.0);
        is(2e9, 1_800.0);
        is(6e9, 1_000.0 + 3_200.0 + 700.0);
    }

    #[test]
    fn unknown_region_is_an_error_that_lists_known_ones() {
        let error = Prices::of_region("mars-1").expect_err("should be unknown").to_string();
        assert!(error.contains("us-east-1 or eu-west-1"), "{error}");
    }
}
