"""The Python peer of `functions/alarm` for readings, with the batch processor of Powertools and boto3."""

import base64
import fnmatch
import hashlib
import json
import os
import re
from decimal import Decimal

import boto3
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from botocore.exceptions import ClientError

TABLE = os.environ["ALARMS_TABLE"]
TOPIC = os.environ["TOPIC_ARN"]
UNITS_MS = {"s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
KEYS_A_CALL = 100

dynamodb = boto3.resource("dynamodb")
table = dynamodb.Table(TABLE)
sns = boto3.client("sns")
processor = BatchProcessor(event_type=EventType.SQS)
document = {"version": None, "thresholds": []}


def milliseconds(span):
    number, unit = re.fullmatch(r"(\d+) *(s|min|h|d)", span).groups()
    return int(number) * UNITS_MS[unit]


def side(condition):
    """A condition on a value, and how long it must be sustained."""
    hold = milliseconds(condition["for"])
    if "above" in condition:
        return lambda value: value > condition["above"], hold
    return lambda value: value < condition["below"], hold


def thresholds():
    """Returns the current thresholds. The document is parsed only when it has changed."""
    found = table.get_item(Key={"id": "document#thresholds", "part": "current"}, ConsistentRead=True).get("Item")
    if found and found["version"] != document["version"]:
        document["version"] = found["version"]
        document["thresholds"] = [
            {
                "name": it["name"],
                "matches": re.compile(fnmatch.translate(it["things"])).match,
                "field": it["field"].split("/")[1:],
                "raise": side(it["raise"]),
                "clear": side(it["clear"]),
                "stale": milliseconds(it["stale"]) if "stale" in it else None,
            }
            for it in json.loads(found["document"], parse_float=Decimal)["thresholds"]
        ]
    return document["thresholds"]


def value_at(reading, path):
    for step in path:
        reading = reading.get(step) if isinstance(reading, dict) else None
    return reading if isinstance(reading, (int, Decimal)) and not isinstance(reading, bool) else None


def judge(threshold, state, at, value):
    """Evaluates a reading. Updates `state` and returns the transition, if any."""
    last = state.get("lastAt")
    if last is not None and at < last:
        state["late"] = state.get("late", 0) + 1
        return None
    was, since = state.get("state", "OK"), state.get("since")
    state.update(state=was, lastAt=at, value=value)
    if was == "STALE":
        state.update(state="OK", since=None)
        return {"from": was, "to": "OK", "value": value, "at": at, "since": at}
    holds, hold = threshold["clear" if was == "ALARM" else "raise"]
    if not holds(value):
        state["since"] = None
        return None
    if since is None or at - last > hold:
        since = at
    if at - since < hold:
        state["since"] = since
        return None
    state.update(state="OK" if was == "ALARM" else "ALARM", since=None)
    return {"from": was, "to": state["state"], "value": value, "at": at, "since": since}


def put(key, state, version):
    """Replaces the state that was read."""
    item = {**key, **{name: it for name, it in state.items() if it is not None}, "version": version + 1}
    if version == 0:
        table.put_item(
            Item=item,
            ConditionExpression="attribute_not_exists(#version)",
            ExpressionAttributeNames={"#version": "version"},
        )
    else:
        table.put_item(
            Item=item,
            ConditionExpression="#version = :was",
            ExpressionAttributeNames={"#version": "version"},
            ExpressionAttributeValues={":was": version},
        )


def notify(notice):
    words = f"{notice['threshold']}: {notice['thing']} is {notice['to']} (now {notice['value']})"
    sns.publish(
        TopicArn=TOPIC,
        Subject=words[:99],
        Message=json.dumps({"default": json.dumps(notice, default=str), "email": words, "sms": words}),
        MessageStructure="json",
        MessageAttributes={
            name: {"DataType": "String", "StringValue": notice[name]} for name in ("threshold", "thing", "from", "to")
        },
    )


def read_states(keys):
    states = {}
    for some in (keys[start : start + KEYS_A_CALL] for start in range(0, len(keys), KEYS_A_CALL)):
        wanted = {TABLE: {"Keys": some, "ConsistentRead": True}}
        while wanted:
            read = dynamodb.batch_get_item(RequestItems=wanted)
            states.update({(it["id"], it["part"]): it for it in read["Responses"].get(TABLE, [])})
            wanted = read.get("UnprocessedKeys")
    return states


def handler(event, context):
    # Readings in order of receipt, and their messages, by thing.
    readings, messages = {}, {}

    def collect(record):
        it = json.loads(record.body)
        payload = json.loads(base64.b64decode(it["payloadBase64"], validate=True), parse_float=Decimal)
        brought = payload if isinstance(payload, list) else [payload]
        readings.setdefault(it["thing"], []).extend((it["receivedAt"], reading) for reading in brought)
        messages.setdefault(it["thing"], []).append(record.message_id)

    answer = process_partial_response(event=event, record_handler=collect, processor=processor, context=context)
    failed = {it["itemIdentifier"] for it in answer["batchItemFailures"]}

    pairs = [(thing, it) for it in thresholds() for thing in readings if it["matches"](thing)]
    keys = [{"id": thing, "part": f"threshold#{threshold['name']}"} for thing, threshold in pairs]
    states = read_states(keys)
    for (thing, threshold), key in zip(pairs, keys):
        state = dict(states.get((key["id"], key["part"]), {}))
        version = int(state.get("version", 0))
        owed = state.pop("owed", [])
        for at, reading in sorted(readings[thing], key=lambda it: it[0]):
            value = value_at(reading, threshold["field"])
            transition = value is not None and judge(threshold, state, at, value)
            if transition:
                name = f"{thing}#{threshold['name']}#{at}#{transition['to']}"
                transition_id = hashlib.sha256(name.encode()).hexdigest()[:32]
                owed.append({"transition": transition_id, "thing": thing, "threshold": threshold["name"], **transition})
        if threshold["stale"] is not None and "lastAt" in state:
            state["dueAt"] = state["lastAt"] + threshold["stale"]
        try:
            put(key, {**state, "owed": owed or None}, version)
            if owed:
                for notice in owed:
                    notify(notice)
                put(key, state, version + 1)
        except ClientError as error:
            print(json.dumps({"level": "WARN", "message": "retry", "thing": thing, "error": str(error)}))
            failed.update(messages[thing])

    print(json.dumps({"level": "INFO", "message": "batch", "requestId": context.aws_request_id, "retried": len(failed)}))
    return {"batchItemFailures": [{"itemIdentifier": it} for it in failed]}
