// The Node peer of `functions/button`, with the AWS SDK.

import { randomUUID } from "node:crypto";

import {
  ConditionalCheckFailedException,
  DynamoDBClient,
  PutItemCommand,
  UpdateItemCommand,
} from "@aws-sdk/client-dynamodb";
import { PublishCommand, SNSClient } from "@aws-sdk/client-sns";

const TABLE = process.env.IDEMPOTENCY_TABLE;
const TOPIC = process.env.TOPIC_ARN;
const FUNCTION = process.env.AWS_LAMBDA_FUNCTION_NAME;
const REMEMBERED_FOR_SECONDS = 86400;
const LOW_BATTERY_MILLIVOLTS = 1200;

const dynamodb = new DynamoDBClient({});
const sns = new SNSClient({});

const log = (level, message, fields) => console.log(JSON.stringify({ level, message, ...fields }));

export async function handler(event, context) {
  const { thing } = event;
  const eventId = event.traceId ?? context.awsRequestId;
  const press = JSON.parse(Buffer.from(event.payloadBase64, "base64").toString("utf8"));
  if (press.serialNumber !== thing) {
    throw new Error("serialNumber is not the topic's");
  }
  if (!["SINGLE", "DOUBLE", "LONG"].includes(press.clickType)) {
    throw new Error("clickType is unknown");
  }
  const millivolts = /^(\d+) ?mV$/.exec(press.batteryVoltage)?.[1];
  if (millivolts === undefined) {
    throw new Error("batteryVoltage is no voltage");
  }

  const id = { S: `${FUNCTION}#${eventId}` };
  const owner = randomUUID();
  const now = Date.now();
  const seconds = Math.floor(now / 1000);
  try {
    await dynamodb.send(
      new PutItemCommand({
        TableName: TABLE,
        Item: {
          id,
          status: { S: "INPROGRESS" },
          owner: { S: owner },
          in_progress_expiration: { N: String(now + context.getRemainingTimeInMillis()) },
          expiration: { N: String(seconds + REMEMBERED_FOR_SECONDS) },
        },
        ConditionExpression:
          "attribute_not_exists(id) OR expiration < :now" +
          " OR (#status = :inProgress AND in_progress_expiration < :nowMs)",
        ExpressionAttributeNames: { "#status": "status" },
        ExpressionAttributeValues: {
          ":now": { N: String(seconds) },
          ":nowMs": { N: String(now) },
          ":inProgress": { S: "INPROGRESS" },
        },
      }),
    );
  } catch (error) {
    if (!(error instanceof ConditionalCheckFailedException)) {
      throw error;
    }
    log("INFO", "duplicate", { requestId: context.awsRequestId, eventId, thing });
    return;
  }

  let message = `Received ${press.clickType} message from button ID: ${thing}`;
  if (Number(millivolts) < LOW_BATTERY_MILLIVOLTS) {
    message += `\nBattery low: ${millivolts} mV`;
  }
  await sns.send(
    new PublishCommand({
      TopicArn: TOPIC,
      Subject: `Button ${thing}`.slice(0, 99),
      Message: message,
      MessageAttributes: {
        clickType: { DataType: "String", StringValue: press.clickType },
        thing: { DataType: "String", StringValue: thing },
        batteryVoltage: { DataType: "Number", StringValue: millivolts },
        eventId: { DataType: "String", StringValue: eventId },
      },
    }),
  );

  await dynamodb.send(
    new UpdateItemCommand({
      TableName: TABLE,
      Key: { id },
      UpdateExpression: "SET #status = :completed, expiration = :expiration REMOVE in_progress_expiration",
      ConditionExpression: "#owner = :owner",
      ExpressionAttributeNames: { "#status": "status", "#owner": "owner" },
      ExpressionAttributeValues: {
        ":completed": { S: "COMPLETED" },
        ":owner": { S: owner },
        ":expiration": { N: String(Math.floor(Date.now() / 1000) + REMEMBERED_FOR_SECONDS) },
      },
    }),
  );
  log("INFO", "batch", { requestId: context.awsRequestId, events: 1, done: 1, eventId, thing });
}
