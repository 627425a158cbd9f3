// The Node peer of `functions/forward`, with the AWS SDK.

import { DynamoDBClient } from "@aws-sdk/client-dynamodb";
import { SQSClient, SendMessageBatchCommand } from "@aws-sdk/client-sqs";
import { DynamoDBDocumentClient, GetCommand } from "@aws-sdk/lib-dynamodb";

const TABLE = process.env.DEVICES_TABLE;
const DEFAULT = [{ topics: process.env.DESTINATION_TOPICS, queueUrl: process.env.DESTINATION_QUEUE_URL }];
const ENTRIES_A_CALL = 10;
const BYTES_A_CALL = 1 << 20;
const LEVELS = { "+": "[^/]*", "#": ".*" };

const dynamodb = DynamoDBDocumentClient.from(new DynamoDBClient({}));
const sqs = new SQSClient({});

async function destinations() {
  const Key = { id: "document#destinations", part: "current" };
  const { Item } = await dynamodb.send(new GetCommand({ TableName: TABLE, Key, ConsistentRead: true }));
  return Item ? JSON.parse(Item.document).destinations : DEFAULT;
}

// Converts an MQTT topic filter to a pattern.
function pattern(topics) {
  const escaped = (level) => level.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`^${topics.split("/").map((level) => LEVELS[level] ?? escaped(level)).join("/")}$`);
}

function entryOf(messageId, event) {
  const MessageBody = Buffer.from(event.payloadBase64, "base64").toString("utf8");
  JSON.parse(MessageBody);
  const text = (StringValue) => ({ DataType: "String", StringValue });
  const MessageAttributes = {
    topic: text(event.topic),
    thing: text(event.thing),
    traceId: text(event.traceId ?? messageId),
    receivedAt: { DataType: "Number", StringValue: String(event.receivedAt) },
    contentType: text("application/json"),
  };
  return { Id: messageId, MessageBody, MessageAttributes };
}

function sizeOf({ MessageBody, MessageAttributes }) {
  return Object.entries(MessageAttributes).reduce(
    (size, [name, it]) => size + name.length + it.DataType.length + Buffer.byteLength(it.StringValue),
    Buffer.byteLength(MessageBody),
  );
}

// Sends the entries in as many calls as necessary.
function* packed(entries) {
  let call = [];
  let size = 0;
  for (const entry of entries) {
    const more = sizeOf(entry);
    if (call.length > 0 && (call.length === ENTRIES_A_CALL || size + more > BYTES_A_CALL)) {
      yield call;
      call = [];
      size = 0;
    }
    call.push(entry);
    size += more;
  }
  if (call.length > 0) {
    yield call;
  }
}

export async function handler(event, context) {
  const found = await destinations();
  const targets = found.map(({ topics, queueUrl }) => ({ pattern: pattern(topics), queueUrl, entries: [] }));
  const failed = new Set();
  for (const record of event.Records) {
    try {
      const it = JSON.parse(record.body);
      const entry = entryOf(record.messageId, it);
      const taking = targets.filter((target) => target.pattern.test(it.topic));
      if (taking.length === 0) {
        throw new Error("no destination takes messages of this topic");
      }
      taking.forEach(({ entries }) => entries.push(entry));
    } catch {
      failed.add(record.messageId);
    }
  }

  for (const { queueUrl, entries } of targets) {
    for (const Entries of packed(entries)) {
      const { Failed } = await sqs.send(new SendMessageBatchCommand({ QueueUrl: queueUrl, Entries }));
      (Failed ?? []).forEach(({ Id }) => failed.add(Id));
    }
  }
  console.log(
    JSON.stringify({ level: "INFO", message: "batch", requestId: context.awsRequestId, retried: failed.size }),
  );
  return { batchItemFailures: [...failed].map((itemIdentifier) => ({ itemIdentifier })) };
}
