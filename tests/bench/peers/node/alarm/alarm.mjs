// The Node peer of `functions/alarm` for readings, with the document client of the AWS SDK.

import { createHash } from "node:crypto";

import { DynamoDBClient } from "@aws-sdk/client-dynamodb";
import { BatchGetCommand, DynamoDBDocumentClient, GetCommand, PutCommand } from "@aws-sdk/lib-dynamodb";
import { PublishCommand, SNSClient } from "@aws-sdk/client-sns";

const TABLE = process.env.ALARMS_TABLE;
const TOPIC = process.env.TOPIC_ARN;
const UNITS_MS = { s: 1000, min: 60_000, h: 3_600_000, d: 86_400_000 };
const KEYS_A_CALL = 100;
const IN_FLIGHT = 8;

const dynamodb = DynamoDBDocumentClient.from(new DynamoDBClient({}), {
  marshallOptions: { removeUndefinedValues: true },
});
const sns = new SNSClient({});
const document = { version: undefined, thresholds: [] };

const log = (level, message, fields) => console.log(JSON.stringify({ level, message, ...fields }));

function milliseconds(span) {
  const [, number, unit] = /^(\d+) *(s|min|h|d)$/.exec(span);
  return Number(number) * UNITS_MS[unit];
}

// A condition on a value, and how long it must be sustained.
const side = ({ above, below, for: hold }) => ({
  holds: above === undefined ? (value) => value < below : (value) => value > above,
  hold: milliseconds(hold),
});

// Returns the current thresholds. The document is parsed only when it has changed.
async function thresholds() {
  const Key = { id: "document#thresholds", part: "current" };
  const { Item } = await dynamodb.send(new GetCommand({ TableName: TABLE, Key, ConsistentRead: true }));
  if (Item !== undefined && Item.version !== document.version) {
    document.version = Item.version;
    document.thresholds = JSON.parse(Item.document).thresholds.map(({ name, things, field, raise, clear, stale }) => ({
      name,
      things: new RegExp(`^${things.replaceAll("*", ".*")}$`),
      field: field.split("/").slice(1),
      raise: side(raise),
      clear: side(clear),
      stale: stale && milliseconds(stale),
    }));
  }
  return document.thresholds;
}

// Evaluates a reading. Updates `state` and returns the transition, if any.
function judge(threshold, state, at, value) {
  const { lastAt } = state;
  if (at < lastAt) {
    state.late = (state.late ?? 0) + 1;
    return undefined;
  }
  const was = state.state ?? "OK";
  Object.assign(state, { state: was, lastAt: at, value });
  if (was === "STALE") {
    Object.assign(state, { state: "OK", since: undefined });
    return { from: was, to: "OK", value, at, since: at };
  }
  const { holds, hold } = was === "ALARM" ? threshold.clear : threshold.raise;
  if (!holds(value)) {
    state.since = undefined;
    return undefined;
  }
  const since = state.since === undefined || at - lastAt > hold ? at : state.since;
  if (at - since < hold) {
    state.since = since;
    return undefined;
  }
  Object.assign(state, { state: was === "ALARM" ? "OK" : "ALARM", since: undefined });
  return { from: was, to: state.state, value, at, since };
}

// Replaces the state that was read.
function put(key, state, version) {
  return dynamodb.send(
    new PutCommand({
      TableName: TABLE,
      Item: { ...key, ...state, version: version + 1 },
      ConditionExpression: version === 0 ? "attribute_not_exists(#version)" : "#version = :was",
      ExpressionAttributeNames: { "#version": "version" },
      ExpressionAttributeValues: version === 0 ? undefined : { ":was": version },
    }),
  );
}

function notify(notice) {
  const words = `${notice.threshold}: ${notice.thing} is ${notice.to} (now ${notice.value})`;
  const names = ["threshold", "thing", "from", "to"];
  return sns.send(
    new PublishCommand({
      TopicArn: TOPIC,
      Subject: words.slice(0, 99),
      Message: JSON.stringify({ default: JSON.stringify(notice), email: words, sms: words }),
      MessageStructure: "json",
      MessageAttributes: Object.fromEntries(
        names.map((name) => [name, { DataType: "String", StringValue: notice[name] }]),
      ),
    }),
  );
}

async function readStates(keys) {
  const states = new Map();
  for (let start = 0; start < keys.length; start += KEYS_A_CALL) {
    let left = { [TABLE]: { Keys: keys.slice(start, start + KEYS_A_CALL), ConsistentRead: true } };
    while (left?.[TABLE] !== undefined) {
      const { Responses, UnprocessedKeys } = await dynamodb.send(new BatchGetCommand({ RequestItems: left }));
      for (const item of Responses[TABLE] ?? []) {
        states.set(`${item.id} ${item.part}`, item);
      }
      left = UnprocessedKeys;
    }
  }
  return states;
}

export async function handler(event, context) {
  const failed = new Set();
  // Readings and their messages, by thing.
  const things = new Map();
  for (const { messageId, body } of event.Records) {
    try {
      const { thing, receivedAt, payloadBase64 } = JSON.parse(body);
      const payload = JSON.parse(Buffer.from(payloadBase64, "base64").toString("utf8"));
      const its = things.get(thing) ?? { readings: [], messages: [] };
      things.set(thing, its);
      its.readings.push(...[payload].flat().map((reading) => ({ at: receivedAt, reading })));
      its.messages.push(messageId);
    } catch {
      failed.add(messageId);
    }
  }
  for (const { readings } of things.values()) {
    readings.sort((one, other) => one.at - other.at);
  }

  const pairs = [];
  for (const threshold of await thresholds()) {
    for (const [thing, its] of things) {
      if (threshold.things.test(thing)) {
        pairs.push({ thing, threshold, ...its, key: { id: thing, part: `threshold#${threshold.name}` } });
      }
    }
  }
  const states = await readStates(pairs.map(({ key }) => key));

  const hold = async ({ thing, threshold, readings, messages, key }) => {
    const { id, part, version = 0, owed = [], ...state } = states.get(`${key.id} ${key.part}`) ?? {};
    for (const { at, reading } of readings) {
      const value = threshold.field.reduce((found, step) => found?.[step], reading);
      const transition = typeof value === "number" ? judge(threshold, state, at, value) : undefined;
      if (transition !== undefined) {
        const name = `${thing}#${threshold.name}#${at}#${transition.to}`;
        const hash = createHash("sha256").update(name).digest("hex").slice(0, 32);
        owed.push({ transition: hash, thing, threshold: threshold.name, ...transition });
      }
    }
    if (threshold.stale !== undefined && state.lastAt !== undefined) {
      state.dueAt = state.lastAt + threshold.stale;
    }
    try {
      await put(key, { ...state, owed: owed.length > 0 ? owed : undefined }, version);
      if (owed.length > 0) {
        for (const notice of owed) {
          await notify(notice);
        }
        await put(key, state, version + 1);
      }
    } catch (error) {
      log("WARN", "retry", { thing, error: String(error) });
      messages.forEach((id) => failed.add(id));
    }
  };
  let next = 0;
  const worker = async () => {
    while (next < pairs.length) {
      await hold(pairs[next++]);
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));

  log("INFO", "batch", { requestId: context.awsRequestId, retried: failed.size });
  return { batchItemFailures: [...failed].map((itemIdentifier) => ({ itemIdentifier })) };
}
