"""The Python peer of `functions/forward`, with the batch processor of Powertools and boto3."""

import base64
import json
import os
import re

import boto3
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response

ENTRIES_A_CALL = 10
BYTES_A_CALL = 1 << 20

table = boto3.resource("dynamodb").Table(os.environ["DEVICES_TABLE"])
sqs = boto3.client("sqs")
processor = BatchProcessor(event_type=EventType.SQS)
default = [{"topics": os.environ["DESTINATION_TOPICS"], "queueUrl": os.environ["DESTINATION_QUEUE_URL"]}]


def destinations():
    found = table.get_item(Key={"id": "document#destinations", "part": "current"}, ConsistentRead=True).get("Item")
    return json.loads(found["document"])["destinations"] if found else default


def matcher(topics):
    """Converts an MQTT topic filter to a pattern."""
    levels = {"+": "[^/]*", "#": ".*"}
    return re.compile("/".join(levels.get(level, re.escape(level)) for level in topics.split("/"))).fullmatch


def entry_of(message_id, event):
    body = base64.b64decode(event["payloadBase64"], validate=True).decode()
    json.loads(body)
    texts = {
        "topic": event["topic"],
        "thing": event["thing"],
        "traceId": event.get("traceId") or message_id,
        "contentType": "application/json",
    }
    attributes = {name: {"DataType": "String", "StringValue": value} for name, value in texts.items()}
    attributes["receivedAt"] = {"DataType": "Number", "StringValue": str(event["receivedAt"])}
    return {"Id": message_id, "MessageBody": body, "MessageAttributes": attributes}


def size_of(entry):
    return len(entry["MessageBody"].encode()) + sum(
        len(name) + len(it["DataType"]) + len(it["StringValue"].encode())
        for name, it in entry["MessageAttributes"].items()
    )


def packed(entries):
    """Sends the entries in as many calls as necessary."""
    call, size = [], 0
    for entry in entries:
        more = size_of(entry)
        if call and (len(call) == ENTRIES_A_CALL or size + more > BYTES_A_CALL):
            yield call
            call, size = [], 0
        call.append(entry)
        size += more
    if call:
        yield call


def handler(event, context):
    targets = [(matcher(it["topics"]), it["queueUrl"], []) for it in destinations()]

    def collect(record):
        it = json.loads(record.body)
        entry = entry_of(record.message_id, it)
        taking = [entries for matches, _, entries in targets if matches(it["topic"])]
        if not taking:
            raise ValueError("no destination takes messages of this topic")
        for entries in taking:
            entries.append(entry)

    answer = process_partial_response(event=event, record_handler=collect, processor=processor, context=context)
    failed = {it["itemIdentifier"] for it in answer["batchItemFailures"]}
    for _, url, entries in targets:
        for call in packed(entries):
            sent = sqs.send_message_batch(QueueUrl=url, Entries=call)
            failed.update(it["Id"] for it in sent.get("Failed", []))
    print(json.dumps({"level": "INFO", "message": "batch", "requestId": context.aws_request_id, "retried": len(failed)}))
    return {"batchItemFailures": [{"itemIdentifier": it} for it in failed]}
