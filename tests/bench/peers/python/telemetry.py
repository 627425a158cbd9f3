"""The Python peer of `functions/telemetry`, with the batch processor of Powertools and the batch writer of boto3."""

import base64
import json
import os
from decimal import Decimal

import boto3
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response

RETENTION_SECONDS = int(os.environ["RETENTION_DAYS"]) * 86400

table = boto3.resource("dynamodb").Table(os.environ["TELEMETRY_TABLE"])
processor = BatchProcessor(event_type=EventType.SQS)


def items_of(record):
    event = json.loads(record.body)
    # boto3 requires Decimal, which keeps numbers exact.
    payload = json.loads(base64.b64decode(event["payloadBase64"], validate=True), parse_float=Decimal)
    event_id = event.get("traceId") or record.message_id
    received_at = event["receivedAt"]
    at = f"{received_at:013}#{event_id}"
    if isinstance(payload, list):
        readings = [(f"{at}#{index:06}", reading) for index, reading in enumerate(payload)]
    else:
        readings = [(at, payload)]
    for at, reading in readings:
        if not isinstance(reading, dict):
            raise ValueError("a reading is a JSON object")
        yield {
            "thing": event["thing"],
            "at": at,
            "eventId": event_id,
            "topic": event["topic"],
            "receivedAt": received_at,
            "reading": reading,
            "expiration": received_at // 1000 + RETENTION_SECONDS,
            **({"deviceTime": reading["time"]} if "time" in reading else {}),
        }


def handler(event, context):
    # By key, because a batch must not contain a key twice.
    items = {}

    def keep(record):
        items.update({(item["thing"], item["at"]): item for item in items_of(record)})

    answer = process_partial_response(event=event, record_handler=keep, processor=processor, context=context)
    # It retries unprocessed items. If it fails, the whole batch is redelivered and overwrites itself.
    with table.batch_writer() as batch:
        for item in items.values():
            batch.put_item(Item=item)
    failed = len(answer["batchItemFailures"])
    print(json.dumps({"level": "INFO", "message": "batch", "requestId": context.aws_request_id, "retried": failed}))
    return answer
