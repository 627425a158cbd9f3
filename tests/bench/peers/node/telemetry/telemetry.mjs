// The Node peer of `functions/telemetry`, with the document client of the AWS SDK.

import { setTimeout as sleep } from "node:timers/promises";

import { DynamoDBClient } from "@aws-sdk/client-dynamodb";
import { BatchWriteCommand, DynamoDBDocumentClient } from "@aws-sdk/lib-dynamodb";

const TABLE = process.env.TELEMETRY_TABLE;
const RETENTION_SECONDS = Number(process.env.RETENTION_DAYS) * 86400;
const A_CALL = 25;
const IN_FLIGHT = 8;
const TRIES = 6;

const dynamodb = DynamoDBDocumentClient.from(new DynamoDBClient({}));

function* itemsOf(record) {
  const event = JSON.parse(record.body);
  const eventId = event.traceId ?? record.messageId;
  const at = `${String(event.receivedAt).padStart(13, "0")}#${eventId}`;
  // Numbers with more digits than a double are rounded here. A parser that preserves them would be slower.
  const payload = JSON.parse(Buffer.from(event.payloadBase64, "base64").toString("utf8"));
  const readings = Array.isArray(payload)
    ? payload.map((reading, index) => [`${at}#${String(index).padStart(6, "0")}`, reading])
    : [[at, payload]];
  for (const [at, reading] of readings) {
    if (typeof reading !== "object" || reading === null || Array.isArray(reading)) {
      throw new Error("a reading is a JSON object");
    }
    yield {
      thing: event.thing,
      at,
      eventId,
      topic: event.topic,
      receivedAt: event.receivedAt,
      reading,
      expiration: Math.floor(event.receivedAt / 1000) + RETENTION_SECONDS,
      ...(reading.time !== undefined && { deviceTime: reading.time }),
    };
  }
}

async function write(items) {
  let requests = items.map((Item) => ({ PutRequest: { Item } }));
  for (let tried = 0; tried < TRIES; tried += 1) {
    const { UnprocessedItems } = await dynamodb.send(new BatchWriteCommand({ RequestItems: { [TABLE]: requests } }));
    requests = UnprocessedItems?.[TABLE] ?? [];
    if (requests.length === 0) {
      return;
    }
    await sleep(Math.random() * 50 * 2 ** tried);
  }
  throw new Error(`${requests.length} items are still unprocessed`);
}

export async function handler(event, context) {
  const failed = new Set();
  // By key, because a batch must not contain a key twice.
  const items = new Map();
  for (const record of event.Records) {
    try {
      for (const item of [...itemsOf(record)]) {
        items.set(`${item.thing}#${item.at}`, { messageId: record.messageId, item });
      }
    } catch {
      failed.add(record.messageId);
    }
  }

  const left = [...items.values()];
  let next = 0;
  const worker = async () => {
    while (next < left.length) {
      const some = left.slice(next, (next += A_CALL));
      try {
        await write(some.map(({ item }) => item));
      } catch {
        some.forEach(({ messageId }) => failed.add(messageId));
      }
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));

  console.log(
    JSON.stringify({ level: "INFO", message: "batch", requestId: context.awsRequestId, retried: failed.size }),
  );
  return { batchItemFailures: [...failed].map((itemIdentifier) => ({ itemIdentifier })) };
}
