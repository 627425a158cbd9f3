//! Estimates from a workload what AWS charges in a month. `docs/cost.md` explains the model.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cost::deployment::{
    COMMON_METRICS, COMPOSITE_ALARMS, CPU_PER_INVOCATION, CPU_PER_MEGABYTE, DASHBOARDS, ENVELOPE_BYTES,
    FURTHER_METRICS, Function, ITEM_OVERHEAD_BYTES, LOG_LINE_BYTES, METRIC_ALARMS, METRIC_BYTES, METRIC_RECORD_BYTES,
    POLL_SECONDS, POLLERS, ROUND_TRIP, SINGLE_EVENT_BYTES, WORK_QUEUES, function,
};
use crate::cost::prices::{Item, Prices};

/// A month has 730 hours.
const HOURS: f64 = 730.0;
const MINUTES: f64 = HOURS * 60.0;
const SECONDS: f64 = MINUTES * 60.0;
const DAYS: f64 = HOURS / 24.0;

const GIGABYTE: f64 = 1_073_741_824.0;

/// AWS IoT charges for each 5 KB of a message, DynamoDB for each 1 KB of a write, and SQS for each 64 KB of a request.
const IOT_CHUNK: f64 = 5.0 * 1024.0;
const WRITE_CHUNK: f64 = 1024.0;
const SQS_CHUNK: f64 = 64.0 * 1024.0;

/// Maximum number of messages that one request to SQS receives or deletes.
const SQS_BATCH: f64 = 10.0;

/// CPU time of writing one alarm record, in µs (a third of an event of `actuator`), and how many run concurrently.
const CPU_PER_EVALUATION: f64 = 158.0;
const CONCURRENT_EVALUATIONS: f64 = 16.0;

/// Partitions of the index that the scheduled check queries every minute, for half a read unit each.
const DUE_PARTITIONS: f64 = 16.0;

/// How many metrics a function typically reports besides the common ones.
const TYPICAL_METRICS: f64 = 2.0;

/// The fleet's traffic and the deployment's configuration.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "described at the options of the command line")]
pub struct Workload {
    pub devices: f64,
    pub messages_per_minute: f64,
    pub readings_per_message: f64,
    pub message_bytes: f64,
    pub thresholds: f64,
    pub transitions_per_day: f64,
    pub clicks_per_day: f64,
    pub rings_per_day: f64,
    pub reconnects_per_day: f64,
    pub shadow_updates_per_day: f64,
    pub forwarded_per_day: f64,
    pub retention_days: f64,
    pub log_retention_days: f64,
    pub memory: f64,
    pub is_arm: bool,
    pub is_basic_ingest: bool,
    pub has_log_lines: bool,
}

/// The capability that causes a cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "named for what they are")]
pub enum Capability {
    AtRest,
    Connections,
    Telemetry,
    Alarms,
    Actuator,
    Buttons,
    Doorbells,
    Presence,
    Shadows,
    Forwarding,
}

impl Capability {
    /// Returns its display name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AtRest => "At rest",
            Self::Connections => "Connections",
            Self::Telemetry => "Telemetry",
            Self::Alarms => "Alarms",
            Self::Actuator => "Actuator",
            Self::Buttons => "Buttons",
            Self::Doorbells => "Doorbells",
            Self::Presence => "Presence",
            Self::Shadows => "Shadows",
            Self::Forwarding => "Forwarding",
        }
    }
}

/// The monthly cost of one item for one capability.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// The capability that causes it.
    pub capability: Capability,
    /// The service.
    pub service: &'static str,
    /// What AWS charges for.
    pub item: Item,
    /// The unit of `quantity`.
    pub unit: &'static str,
    /// The quantity in a month.
    pub quantity: f64,
    /// The price of that quantity.
    pub usd: f64,
    /// The date of the list price.
    pub date: String,
    /// Its source.
    pub source: String,
}

/// Estimates a month. Unused items are left out.
pub fn estimate(workload: &Workload, prices: &Prices) -> Result<Vec<Line>> {
    let mut bill = Bill { workload, usage: Vec::new() };
    bill.at_rest()?;
    bill.connections();
    bill.telemetry()?;
    bill.buttons_and_doorbells()?;
    bill.presence()?;
    bill.shadows()?;
    bill.forwarding()?;
    bill.price(prices)
}

struct Bill<'a> {
    workload: &'a Workload,
    usage: Vec<(Capability, Item, f64)>,
}

impl Bill<'_> {
    fn add(&mut self, capability: Capability, item: Item, quantity: f64) {
        match self.usage.iter_mut().find(|(of, what, _)| (*of, *what) == (capability, item)) {
            Some((.., sum)) => *sum += quantity,
            None => self.usage.push((capability, item, quantity)),
        }
    }

    /// Prices each item by its total quantity, so that tiers apply to the account, and splits the price by share.
    fn price(self, prices: &Prices) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        for &(capability, item, quantity) in &self.usage {
            if quantity <= 0.0 {
                continue;
            }
            let total: f64 = self.usage.iter().filter(|(_, other, _)| *other == item).map(|(.., number)| number).sum();
            let price = prices.get(item)?;
            lines.push(Line {
                capability,
                service: item.service(),
                item,
                unit: item.unit(),
                quantity,
                usd: price.of(total) * quantity / total,
                date: price.date.clone(),
                source: price.source.clone(),
            });
        }
        lines.sort_by(|a, b| b.usd.total_cmp(&a.usd));
        Ok(lines)
    }

    fn at_rest(&mut self) -> Result<()> {
        self.add(Capability::AtRest, Item::CloudwatchAlarms, METRIC_ALARMS + FURTHER_METRICS);
        self.add(Capability::AtRest, Item::CloudwatchComposites, COMPOSITE_ALARMS);
        self.add(Capability::AtRest, Item::CloudwatchDashboards, DASHBOARDS);
        self.add(Capability::AtRest, Item::SqsRequests, WORK_QUEUES * POLLERS * SECONDS / POLL_SECONDS);
        // The daily check for expiring certificates.
        self.add(Capability::AtRest, Item::SchedulerInvocations, DAYS);
        self.run(Capability::AtRest, "jitr", DAYS, 200.0, 0.0)?;
        // The check every minute: `alarm` reads its document and the index of due checks.
        self.add(Capability::AtRest, Item::SchedulerInvocations, MINUTES);
        self.add(Capability::AtRest, Item::DynamodbReads, MINUTES * (1.0 + DUE_PARTITIONS / 2.0));
        self.run(Capability::AtRest, "alarm", MINUTES, 200.0, 0.0)?;
        Ok(())
    }

    fn connections(&mut self) {
        let Workload { devices, reconnects_per_day, .. } = *self.workload;
        self.add(Capability::Connections, Item::IotMinutes, devices * MINUTES);
        self.add(Capability::Connections, Item::IotMessages, devices * reconnects_per_day * DAYS);
    }

    fn telemetry(&mut self) -> Result<()> {
        let Workload {
            devices,
            messages_per_minute,
            readings_per_message,
            message_bytes,
            thresholds,
            transitions_per_day,
            retention_days,
            is_basic_ingest,
            ..
        } = *self.workload;
        let messages = devices * messages_per_minute * MINUTES;
        let bytes = message_bytes + ENVELOPE_BYTES;
        self.publish(Capability::Telemetry, messages, message_bytes, 1.0, is_basic_ingest);

        let readings = messages * readings_per_message;
        let item_bytes = message_bytes / readings_per_message + ITEM_OVERHEAD_BYTES;
        self.add(Capability::Telemetry, Item::DynamodbWrites, readings * chunks(item_bytes, WRITE_CHUNK));
        let stored = readings / DAYS * retention_days * item_bytes / GIGABYTE;
        self.add(Capability::Telemetry, Item::DynamodbStorage, stored);
        self.add(Capability::Telemetry, Item::DynamodbBackup, stored);
        self.run(Capability::Telemetry, "telemetry", messages, bytes, 0.0)?;

        // The rule's second action sends the same messages to `alarm`.
        self.add(Capability::Alarms, Item::IotActions, messages * chunks(message_bytes, IOT_CHUNK));
        let per_batch = (messages_per_minute / 60.0 * known("alarm")?.batching_window).max(1.0);
        let evaluations = messages * thresholds / per_batch;
        let batches = self.run(Capability::Alarms, "alarm", messages, bytes, evaluations)?;
        self.add(Capability::Alarms, Item::DynamodbReads, batches + evaluations);
        self.add(Capability::Alarms, Item::DynamodbWrites, evaluations);

        let transitions = transitions_per_day * DAYS;
        self.notify(Capability::Alarms, transitions);
        // The rate limit, the claim and its completion, and the outbox.
        self.add(Capability::Alarms, Item::DynamodbReads, transitions);
        self.add(Capability::Alarms, Item::DynamodbWrites, transitions * 4.0);
        self.run(Capability::Actuator, "actuator", transitions, 1024.0, 0.0)?;
        self.add(Capability::Actuator, Item::IotShadows, transitions);
        self.add(Capability::Actuator, Item::DynamodbReads, transitions * 2.0);
        self.add(Capability::Actuator, Item::DynamodbWrites, transitions * 3.0);
        Ok(())
    }

    fn buttons_and_doorbells(&mut self) -> Result<()> {
        let clicks = self.workload.clicks_per_day * DAYS;
        self.publish(Capability::Buttons, clicks, 100.0, 1.0, false);
        self.run(Capability::Buttons, "button", clicks, 0.0, 0.0)?;
        self.add(Capability::Buttons, Item::DynamodbWrites, clicks * 2.0);
        self.notify(Capability::Buttons, clicks);

        let rings = self.workload.rings_per_day * DAYS;
        self.publish(Capability::Doorbells, rings, 100.0, 1.0, false);
        self.run(Capability::Doorbells, "doorbell", rings, 0.0, 0.0)?;
        self.add(Capability::Doorbells, Item::DynamodbReads, rings);
        self.add(Capability::Doorbells, Item::DynamodbWrites, rings * 2.0);
        self.add(Capability::Doorbells, Item::SnsPublishes, rings);
        Ok(())
    }

    fn presence(&mut self) -> Result<()> {
        let reconnects = self.workload.devices * self.workload.reconnects_per_day * DAYS;
        // A connect and a disconnect, which AWS IoT publishes, and a check some minutes after the disconnect.
        self.publish(Capability::Presence, reconnects * 2.0, 500.0, 1.0, true);
        self.run(Capability::Presence, "presence", reconnects * 3.0, 1024.0, 0.0)?;
        self.add(Capability::Presence, Item::DynamodbReads, reconnects * 3.0);
        self.add(Capability::Presence, Item::DynamodbWrites, reconnects * 2.0);
        Ok(())
    }

    fn shadows(&mut self) -> Result<()> {
        let updates = self.workload.devices * self.workload.shadow_updates_per_day * DAYS;
        self.add(Capability::Shadows, Item::IotShadows, updates);
        self.publish(Capability::Shadows, updates, 1024.0, 1.0, true);
        self.run(Capability::Shadows, "shadow", updates, 2048.0, 0.0)?;
        self.add(Capability::Shadows, Item::DynamodbReads, updates);
        self.add(Capability::Shadows, Item::DynamodbWrites, updates);
        Ok(())
    }

    fn forwarding(&mut self) -> Result<()> {
        let messages = self.workload.forwarded_per_day * DAYS;
        let bytes = self.workload.message_bytes;
        self.publish(Capability::Forwarding, messages, bytes, 1.0, false);
        let batches = self.run(Capability::Forwarding, "forward", messages, bytes + ENVELOPE_BYTES, 0.0)?;
        self.add(Capability::Forwarding, Item::DynamodbReads, batches);
        // Into the destination's queue.
        let per_request = if batches > 0.0 { (messages / batches).clamp(1.0, SQS_BATCH) } else { 1.0 };
        self.add(Capability::Forwarding, Item::SqsRequests, messages / per_request);
        Ok(())
    }

    /// Adds messages that trigger a rule.
    fn publish(&mut self, capability: Capability, messages: f64, bytes: f64, actions: f64, is_free: bool) {
        let metered = messages * chunks(bytes, IOT_CHUNK);
        if !is_free {
            self.add(capability, Item::IotMessages, metered);
        }
        self.add(capability, Item::IotRules, metered);
        self.add(capability, Item::IotActions, metered * actions);
    }

    /// Adds notifications that are sent to one email address.
    fn notify(&mut self, capability: Capability, notifications: f64) {
        self.add(capability, Item::SnsPublishes, notifications);
        self.add(capability, Item::SnsEmails, notifications);
    }

    /// Adds a function that handles this number of events, each of `bytes`, with `evaluations` of alarm records in
    /// total. Returns the number of invocations.
    fn run(&mut self, capability: Capability, name: &str, events: f64, bytes: f64, evaluations: f64) -> Result<f64> {
        if events <= 0.0 {
            return Ok(0.0);
        }
        let function = known(name)?;
        let Workload { memory, is_arm, has_log_lines, log_retention_days, .. } = *self.workload;
        let batch = batch(function, events / SECONDS);
        if function.batch_size.is_some() {
            let per_request = batch.min(SQS_BATCH);
            let sends = events * chunks(bytes, SQS_CHUNK);
            let receives = events / per_request * chunks(bytes * per_request, SQS_CHUNK);
            self.add(capability, Item::SqsRequests, sends + receives + events / per_request);
        }
        let invocations = events / batch;

        let evaluations = evaluations / invocations;
        let cpu = CPU_PER_INVOCATION + batch * function.cpu_per_message + evaluations * CPU_PER_EVALUATION;
        let share = (memory * CPU_PER_MEGABYTE).min(1.0);
        let round_trips = function.round_trips + evaluations / CONCURRENT_EVALUATIONS;
        let duration = cpu / 1e6 / share + round_trips * ROUND_TRIP;
        let gigabyte_seconds = invocations * duration * memory / 1024.0;
        self.add(capability, Item::LambdaRequests, invocations);
        self.add(capability, if is_arm { Item::LambdaArmSeconds } else { Item::LambdaX86Seconds }, gigabyte_seconds);

        let common = f64::from(u8::try_from(COMMON_METRICS.len()).unwrap_or(u8::MAX));
        let mut line_bytes = METRIC_RECORD_BYTES + METRIC_BYTES * (common + TYPICAL_METRICS);
        if has_log_lines {
            line_bytes += LOG_LINE_BYTES;
        }
        // With small batches, most invocations have a single event.
        if batch < 2.0 {
            line_bytes += SINGLE_EVENT_BYTES;
        }
        let gigabytes = invocations * line_bytes / GIGABYTE;
        self.add(capability, Item::CloudwatchLogs, gigabytes);
        self.add(capability, Item::CloudwatchLogStorage, gigabytes / DAYS * log_retention_days);
        // CloudWatch charges for the hours in which a metric is reported. `alarm` already reports every minute.
        let has_own_metrics = capability == Capability::AtRest || name != "alarm";
        if has_own_metrics {
            let own = f64::from(u8::try_from(function.metrics.len()).unwrap_or(u8::MAX));
            self.add(capability, Item::CloudwatchMetrics, (common + own) * (invocations / HOURS).min(1.0));
        }
        Ok(invocations)
    }
}

fn known(name: &str) -> Result<&'static Function> {
    function(name).with_context(|| format!("the model has no function {name}"))
}

/// Returns the messages per batch at a rate per second: those that one of Lambda's pollers collects within the window.
fn batch(function: &Function, rate: f64) -> f64 {
    let size = function.batch_size.unwrap_or(1.0);
    (rate * function.batching_window / POLLERS).clamp(1.0, size)
}

fn chunks(bytes: f64, chunk: f64) -> f64 {
    (bytes / chunk).ceil().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> Workload {
        Workload {
            devices: 0.0,
            messages_per_minute: 0.0,
            readings_per_message: 1.0,
            message_bytes: 200.0,
            thresholds: 0.0,
            transitions_per_day: 0.0,
            clicks_per_day: 0.0,
            rings_per_day: 0.0,
            reconnects_per_day: 0.0,
            shadow_updates_per_day: 0.0,
            forwarded_per_day: 0.0,
            retention_days: 90.0,
            log_retention_days: 30.0,
            memory: 128.0,
            is_arm: true,
            is_basic_ingest: false,
            has_log_lines: true,
        }
    }

    fn fleet() -> Workload {
        Workload { devices: 10_000.0, messages_per_minute: 1.0, ..idle() }
    }

    fn lines(workload: &Workload) -> Vec<Line> {
        estimate(workload, &Prices::of_region("us-east-1").expect("prices")).expect("an estimate")
    }

    fn usd(lines: &[Line], is_counted: impl Fn(&Line) -> bool) -> f64 {
        lines.iter().filter(|line| is_counted(line)).map(|line| line.usd).sum()
    }

    fn quantity(lines: &[Line], capability: Capability, item: Item) -> f64 {
        lines.iter().find(|line| line.capability == capability && line.item == item).map_or(0.0, |line| line.quantity)
    }

    #[test]
    fn idle_deployment_pays_for_alarms_polling_and_the_schedules_only() {
        let lines = lines(&idle());
        assert!(lines.iter().all(|line| line.capability == Capability::AtRest), "{lines:?}");
        let alarms = usd(&lines, |line| line.item == Item::CloudwatchAlarms);
        assert!((alarms - (METRIC_ALARMS + FURTHER_METRICS) * 0.1).abs() < 1e-9, "{alarms}");
        let polling = quantity(&lines, Capability::AtRest, Item::SqsRequests);
        // 8 queues × 5 pollers × 3 polls a minute, and the commands of the schedules.
        assert!((5_256_000.0..5_400_000.0).contains(&polling), "{polling}");
    }

    #[test]
    fn each_message_is_sent_received_and_deleted_once_per_queue() {
        let lines = lines(&fleet());
        let messages = 10_000.0 * MINUTES;
        for capability in [Capability::Telemetry, Capability::Alarms] {
            let requests = quantity(&lines, capability, Item::SqsRequests);
            assert!((requests / messages - 1.2).abs() < 1e-9, "{capability:?}: {requests}");
        }
        assert!((quantity(&lines, Capability::Telemetry, Item::DynamodbWrites) / messages - 1.0).abs() < 1e-9);
        assert!((quantity(&lines, Capability::Telemetry, Item::IotRules) / messages - 1.0).abs() < 1e-9);
    }

    #[test]
    fn basic_ingest_saves_the_messages_of_telemetry() {
        let with = lines(&Workload { is_basic_ingest: true, ..fleet() });
        assert!(quantity(&with, Capability::Telemetry, Item::IotMessages).abs() < 1e-9);
        let without = lines(&fleet());
        let saved = usd(&without, |_| true) - usd(&with, |_| true);
        assert!((saved - 10_000.0 * MINUTES / 1e6).abs() < 1e-6, "{saved}");
    }

    #[test]
    fn readings_that_share_a_message_share_all_but_their_writes() {
        let one = lines(&fleet());
        let ten = lines(&Workload { readings_per_message: 10.0, message_bytes: 2000.0, ..fleet() });
        let messages = |lines: &[Line]| quantity(lines, Capability::Telemetry, Item::IotMessages);
        let writes = |lines: &[Line]| quantity(lines, Capability::Telemetry, Item::DynamodbWrites);
        assert!((messages(&one) - messages(&ten)).abs() < 1e-9);
        assert!((writes(&one) * 10.0 - writes(&ten)).abs() < 1.0);
    }

    #[test]
    fn thresholds_cost_a_read_and_a_write_for_each_message() {
        let with = lines(&Workload { thresholds: 2.0, ..fleet() });
        let messages = 10_000.0 * MINUTES;
        assert!((quantity(&with, Capability::Alarms, Item::DynamodbWrites) / messages - 2.0).abs() < 1e-9);
        let reads = quantity(&with, Capability::Alarms, Item::DynamodbReads);
        assert!(reads > 2.0 * messages && reads < 2.1 * messages, "{reads}");
    }

    #[test]
    fn batches_grow_with_the_rate_up_to_their_limit() {
        let telemetry = known("telemetry").expect("a function");
        for (rate, expected) in [(0.01, 1.0), (100.0, 100.0), (1e6, 1000.0)] {
            assert!((batch(telemetry, rate) - expected).abs() < 1e-9, "{rate}");
        }
        assert!((batch(known("button").expect("a function"), 1e6) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn more_of_anything_never_costs_less() {
        let base = Workload { thresholds: 1.0, reconnects_per_day: 1.0, ..fleet() };
        let total = |workload: &Workload| usd(&lines(workload), |_| true);
        let before = total(&base);
        let changes: [fn(&mut Workload); 10] = [
            |w| w.devices *= 2.0,
            |w| w.messages_per_minute *= 2.0,
            |w| w.readings_per_message *= 2.0,
            |w| w.thresholds += 1.0,
            |w| w.clicks_per_day += 100.0,
            |w| w.rings_per_day += 100.0,
            |w| w.reconnects_per_day += 1.0,
            |w| w.shadow_updates_per_day += 1.0,
            |w| w.forwarded_per_day += 1000.0,
            |w| w.transitions_per_day += 10.0,
        ];
        for (index, change) in changes.iter().enumerate() {
            let mut workload = base.clone();
            change(&mut workload);
            assert!(total(&workload) > before, "change {index}");
        }
    }
}
