"""The Python peer of `functions/button`, with boto3."""

import base64
import json
import os
import time
import uuid

import boto3
from botocore.exceptions import ClientError

TABLE = os.environ["IDEMPOTENCY_TABLE"]
TOPIC = os.environ["TOPIC_ARN"]
FUNCTION = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
REMEMBERED_FOR_SECONDS = 86400
LOW_BATTERY_MILLIVOLTS = 1200

dynamodb = boto3.client("dynamodb")
sns = boto3.client("sns")


def log(level, message, **fields):
    print(json.dumps({"level": level, "message": message, **fields}))


def handler(event, context):
    thing = event["thing"]
    event_id = event.get("traceId") or context.aws_request_id
    press = json.loads(base64.b64decode(event["payloadBase64"], validate=True))
    if press["serialNumber"] != thing:
        raise ValueError("serialNumber is not the topic's")
    if press["clickType"] not in ("SINGLE", "DOUBLE", "LONG"):
        raise ValueError("clickType is unknown")
    millivolts = int(press["batteryVoltage"].removesuffix("mV").strip())

    key = {"id": {"S": f"{FUNCTION}#{event_id}"}}
    owner = str(uuid.uuid4())
    now = time.time()
    try:
        dynamodb.put_item(
            TableName=TABLE,
            Item={
                **key,
                "status": {"S": "INPROGRESS"},
                "owner": {"S": owner},
                "in_progress_expiration": {"N": str(int(now * 1000) + context.get_remaining_time_in_millis())},
                "expiration": {"N": str(int(now) + REMEMBERED_FOR_SECONDS)},
            },
            ConditionExpression="attribute_not_exists(id) OR expiration < :now"
            " OR (#status = :inProgress AND in_progress_expiration < :nowMs)",
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues={
                ":now": {"N": str(int(now))},
                ":nowMs": {"N": str(int(now * 1000))},
                ":inProgress": {"S": "INPROGRESS"},
            },
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise
        log("INFO", "duplicate", requestId=context.aws_request_id, eventId=event_id, thing=thing)
        return

    message = f"Received {press['clickType']} message from button ID: {thing}"
    if millivolts < LOW_BATTERY_MILLIVOLTS:
        message += f"\nBattery low: {millivolts} mV"
    sns.publish(
        TopicArn=TOPIC,
        Subject=f"Button {thing}"[:99],
        Message=message,
        MessageAttributes={
            "clickType": {"DataType": "String", "StringValue": press["clickType"]},
            "thing": {"DataType": "String", "StringValue": thing},
            "batteryVoltage": {"DataType": "Number", "StringValue": str(millivolts)},
            "eventId": {"DataType": "String", "StringValue": event_id},
        },
    )

    dynamodb.update_item(
        TableName=TABLE,
        Key=key,
        UpdateExpression="SET #status = :completed, expiration = :expiration REMOVE in_progress_expiration",
        ConditionExpression="#owner = :owner",
        ExpressionAttributeNames={"#status": "status", "#owner": "owner"},
        ExpressionAttributeValues={
            ":completed": {"S": "COMPLETED"},
            ":owner": {"S": owner},
            ":expiration": {"N": str(int(time.time()) + REMEMBERED_FOR_SECONDS)},
        },
    )
    log("INFO", "batch", requestId=context.aws_request_id, events=1, done=1, eventId=event_id, thing=thing)
