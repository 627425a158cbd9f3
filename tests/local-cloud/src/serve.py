"""Starts the local cloud, MiniStack 1.5, with changes that make it faster and expose the functions' logs."""

import _ssl
import asyncio
import contextvars
import hashlib
import json
import os
import queue
import socket
import socketserver
import time
from types import SimpleNamespace

import yaml

# CloudFormation parses each template of a stack. The parser in C takes a tenth of the time.
yaml.SafeLoader = yaml.CSafeLoader

from ministack.core import iam_actions, iam_evaluator

if "PERMISSION_LOG" in os.environ:
    evaluate = iam_evaluator.evaluate
    permission_log = open(os.environ["PERMISSION_LOG"], "a", buffering=1)

    def record(context, policies, *limits):
        """Records what a policy decides about a request."""
        result = evaluate(context, policies, *limits)
        decision = {"principal": context.principal_arn, "action": context.action, "resource": context.resource_arn,
                    "result": result.decision, "sid": result.matched_sid}
        permission_log.write(json.dumps(decision) + "\n")
        return result

    iam_evaluator.evaluate = record

from ministack import app
from ministack.core import lambda_runtime, responses
from ministack.core.lambda_runtime import ProvidedWorker, Worker
from ministack.services import cloudwatch, cloudwatch_logs, iot, iot_data, lambda_svc, s3, sns, sqs
from ministack.services.cloudformation import _stacks, provisioners, stacks

# MiniStack has two threads for each process of a function, which look for work ten times a second. A hundred idle
# processes would take half of a core.
IDLE_SECONDS = 30
serve_forever = socketserver.BaseServer.serve_forever


def serve_until_woken(server, poll_interval=0.5):
    """Serves requests, and looks rarely whether it was shut down."""
    serve_forever(server, IDLE_SECONDS)


def shut_down_and_wake(server):
    """Stops a server, and wakes it."""
    server._BaseServer__shutdown_request = True
    try:
        socket.create_connection(server.server_address, timeout=1).close()
    except OSError:
        pass  # It has stopped listening.
    server._BaseServer__is_shut_down.wait()


socketserver.BaseServer.serve_forever = serve_until_woken
socketserver.BaseServer.shutdown = shut_down_and_wake


class InvocationQueue(queue.Queue):
    """The one invocation that a process of a function waits for. An invocation wakes the thread that waits, and a process
    that is stopped needs no response."""

    def get(self, block=True, timeout=None):
        return super().get(block, IDLE_SECONDS if self.maxsize == 1 else timeout)


lambda_runtime.queue = SimpleNamespace(Queue=InvocationQueue, Empty=queue.Empty, Full=queue.Full)

drain = Worker._drain_stderr_bounded
names = drain.__code__.co_varnames[1 : drain.__code__.co_argcount]
assert names == ("first_line_wait", "idle_confirm", "hard_cap"), names


def read_log_lines(worker, first_line_wait=10, idle_confirm=None, hard_cap=None):
    """Returns the log lines of an invocation, which end with a metric record. MiniStack waits at most 50 ms, and on a
    busy machine shows later lines with the next invocation."""
    lines = []
    until = time.monotonic() + first_line_wait
    while not (lines and '"_aws":' in lines[-1]):
        try:
            lines.append(worker._stderr_queue.get(timeout=max(0, until - time.monotonic())))
        except queue.Empty:
            break
    return "\n".join(lines)


Worker._drain_stderr_bounded = read_log_lines


# Everything shares one machine, so calls that take milliseconds in AWS may take seconds. This multiplies a function's
# timeout, and that of its calls, which is three seconds otherwise. The queues allow it: their visibility timeouts are
# six times the functions' timeouts.
TIMEOUT_FACTOR = 4
create_worker = ProvidedWorker.__init__


def create_patient_worker(worker, name, config, code):
    """Extends the timeouts of a function, unless its environment sets the timeout of calls, as behind a fault proxy."""
    variables = (config.get("Environment") or {}).get("Variables") or {}
    if "OPERATION_TIMEOUT_SECONDS" not in variables:
        variables = {**variables, "OPERATION_TIMEOUT_SECONDS": str(3 * TIMEOUT_FACTOR)}
        timeout = config.get("Timeout", 3) * TIMEOUT_FACTOR
        config = {**config, "Environment": {"Variables": variables}, "Timeout": timeout}
    create_worker(worker, name, config, code)


ProvidedWorker.__init__ = create_patient_worker


def on_loop(function):
    """Calls a function on the event loop. SQS replaces a queue's list of messages when it deletes some, and would lose
    messages that another thread adds at that moment."""

    def call(*arguments):
        context = contextvars.copy_context()
        app._MAIN_LOOP.call_soon_threadsafe(lambda: context.run(function, *arguments))

    return call


sqs._delete_messages_for_esm = on_loop(sqs._delete_messages_for_esm)

# The maximum number of seconds until a failed message is visible again. The deployed queues' visibility timeouts are
# minutes.
REDELIVERY_DELAY = 10
run_batch = lambda_svc._run_sqs_batch
names = run_batch.__code__.co_varnames[: run_batch.__code__.co_argcount]
assert names == ("esm", "func_rec", "event", "batch", "queue_url", "queue_name"), names


def run_batch_and_redeliver(esm, func_rec, event, batch, queue_url, queue_name):
    """Invokes a function with messages of a queue, and makes failed ones visible again soon."""
    run_batch(esm, func_rec, event, batch, queue_url, queue_name)
    # The messages that succeeded are no longer in the queue.
    for message in batch:
        message["visible_at"] = min(message["visible_at"], time.time() + REDELIVERY_DELAY)


lambda_svc._run_sqs_batch = run_batch_and_redeliver


def record_embedded_metrics(line):
    """Records the metrics in a log line in CloudWatch's embedded metric format."""
    record = json.loads(line)
    for directive in record["_aws"]["CloudWatchMetrics"]:
        for names in directive["Dimensions"]:
            dimensions = {name: record[name] for name in names}
            for metric in directive["Metrics"]:
                value, unit = record[metric["Name"]], metric.get("Unit", "None")
                cloudwatch.record_metric(directive["Namespace"], metric["Name"], value, unit, dimensions)


@on_loop
def observe(group, stream, events):
    """Records the metrics in a function's log, and sends the log to the account's queue for observers, if there is
    one."""
    for event in events:
        if '"_aws":' in event["message"]:
            record_embedded_metrics(event["message"])
    url = sqs._queue_url(os.environ["OBSERVER_QUEUE"])
    if url in sqs._queues:
        body = json.dumps({"logGroup": group, "logEvents": events})
        sqs._act_send_message({"MessageBody": body}, url)


# Called with each invocation's log lines, in the account of the function.
assert cloudwatch_logs._fanout_to_subscription_filters.__code__.co_argcount == 3
cloudwatch_logs._fanout_to_subscription_filters = observe


def count(namespace, metric, dimensions):
    """Adds one to a metric of an AWS service, for which MiniStack has none."""
    cloudwatch.record_metric(namespace, metric, 1, "Count", dimensions)


send_message = sqs._act_send_message


def send_and_count(data, url):
    """Sends a message to a queue, and counts it."""
    result = send_message(data, url)
    count("AWS/SQS", "NumberOfMessagesSent", {"QueueName": data.get("QueueUrl", url).rsplit("/", 1)[-1]})
    return result


sqs._act_send_message = sqs._HANDLERS["SendMessage"] = send_and_count

deliver_to_queue = sns._deliver_to_sqs


def deliver_and_count(endpoint, *arguments, **options):
    """Delivers a notification to a queue, and counts it."""
    queue = sqs._queue_by_arn(endpoint)
    before = len(queue["messages"]) if queue else 0
    deliver_to_queue(endpoint, *arguments, **options)
    if queue and len(queue["messages"]) > before:
        count("AWS/SQS", "NumberOfMessagesSent", {"QueueName": endpoint.rsplit(":", 1)[-1]})


sns._deliver_to_sqs = deliver_and_count

invoke_later = lambda_svc.invoke_async_with_retry


def invoke_later_and_count(function, event):
    """Invokes a function asynchronously, and counts the event."""
    count("AWS/Lambda", "AsyncEventsReceived", {"FunctionName": (function.get("config") or function)["FunctionName"]})
    invoke_later(function, event)


lambda_svc.invoke_async_with_retry = invoke_later_and_count

run_actions = iot._run_rule_actions


async def run_and_count(account, region, rule, *arguments):
    """Runs a rule for a message that matches its topic, and counts the match."""
    with responses.request_scope(account, region):
        count("AWS/IoT", "TopicMatch", {"RuleName": rule["ruleName"]})
    await run_actions(account, region, rule, *arguments)


iot._run_rule_actions = run_and_count

dispatch_action = iot._dispatch_rule_action


async def dispatch_and_count(account, region, rule, action, event):
    """Runs an action of a rule, and counts whether it succeeded."""
    kind = next(iter(action))
    result = "Failure"
    try:
        await dispatch_action(account, region, rule, action, event)
        result = "Success"
    finally:
        with responses.request_scope(account, region):
            count("AWS/IoT", result, {"ActionType": kind[0].upper() + kind[1:], "RuleName": rule})
            if kind == "lambda":
                function = action[kind]["functionArn"].rsplit(":", 1)[-1]
                count("AWS/Lambda", "AsyncEventsReceived", {"FunctionName": function})


iot._dispatch_rule_action = dispatch_and_count

read_object = s3._get_object_data


def read_shared_object(bucket, key, version_id=None):
    """Reads an object for CloudFormation or Lambda. The packaged templates and functions are in one account; all others
    can read them, as if the bucket's policy granted access."""
    found = read_object(bucket, key, version_id)
    if found is None:
        owner = responses._request_account_id.set(os.environ["AWS_ACCESS_KEY_ID"])
        try:
            found = read_object(bucket, key, version_id)
        finally:
            responses._request_account_id.reset(owner)
    return found


s3._get_object_data = read_shared_object

handle_iot_data = iot_data.handle_request


async def handle_connections(method, path, headers, body, query_params):
    """Adds `GetConnection` and `DeleteConnection` to the data plane of AWS IoT. A client that is not connected does not
    exist here; AWS IoT keeps it for half an hour, and while its session is stored."""
    prefix = "/connections/"
    if method not in ("GET", "DELETE") or not path.startswith(prefix):
        return await handle_iot_data(method, path, headers, body, query_params)
    client_id = path.removeprefix(prefix)
    session = iot._connected_clients.get((responses.get_account_id(), responses.get_region(), client_id))
    if session is None:
        return responses.error_response_json("ResourceNotFoundException", "The client is not connected.", 404)
    if method == "GET":
        return responses.json_response({"clientId": client_id, "connected": True})
    session._forced_disconnect_reason = "API_INITIATED_DISCONNECT"
    if "preventWillMessage" in query_params:
        session._will_topic = None
    await session._send({"type": "websocket.close", "code": 1000})
    await session.cleanup()
    return 200, {}, b""


iot_data.handle_request = handle_connections

serve_connection = iot._mtls_serve_conn
register = iot._mtls_auto_register
names = register.__code__.co_varnames[: register.__code__.co_argcount]
assert names == ("der", "peername", "server_name"), names
sent_chain = contextvars.ContextVar("sent_chain")


async def serve_with_chain(reader, writer):
    """Serves a connection, and records the certificates that the client sent."""
    ssl_object = writer.get_extra_info("ssl_object")
    chain = (ssl_object and ssl_object._sslobj.get_unverified_chain()) or []
    sent_chain.set({hashlib.sha256(sent.public_bytes(_ssl.ENCODING_DER)).hexdigest() for sent in chain if sent})
    await serve_connection(reader, writer)


async def register_with_ca(der, peername, server_name=None):
    """Registers a new certificate only if the device also sends its CA's certificate, by which AWS IoT finds the CA.
    MiniStack searches all CAs."""
    is_known = iot._mtls_active_registrations(hashlib.sha256(der).hexdigest(), status=None)
    authorities = {ca_id for _, _, ca_id in list(iot._ca_certificates._data)}
    if not is_known and authorities.isdisjoint(sent_chain.get()):
        return False
    return await register(der, peername, server_name)


iot._mtls_serve_conn = serve_with_chain
iot._mtls_auto_register = register_with_ca

resource_arn = iam_actions.extract_resource_arn


def connection_arn(service, method, path, headers, body, query_params, region, account_id):
    """Returns the ARN of the resource of a request, including requests for connections."""
    if service == "iot-data" and path.startswith("/connections/"):
        return f"arn:aws:iot:{region}:{account_id}:client/{path.removeprefix('/connections/')}"
    return resource_arn(service, method, path, headers, body, query_params, region, account_id)


iam_actions.extract_resource_arn = connection_arn

iam_action = iam_actions.extract_iam_action
table_arns = iam_actions.dynamodb_resource_arns


def updated_tables(body):
    """Returns the tables that the PartiQL statements of a DynamoDB request update."""
    if b'"Statements"' not in body:
        return set()
    statements = [statement["Statement"].split() for statement in json.loads(body)["Statements"]]
    return {words[1].strip('"') for words in statements if words[0] == "UPDATE"}


def action_of_statements(service, method, path, headers, body, query_params):
    """Returns the action that a request needs. MiniStack asks for the operation's name, which is no action if the
    request has statements."""
    action = iam_action(service, method, path, headers, body, query_params)
    is_update = action == "dynamodb:BatchExecuteStatement" and updated_tables(body)
    return "dynamodb:PartiQLUpdate" if is_update else action


def table_arns_of_statements(body, region, account_id):
    """Returns the ARNs of the tables of a DynamoDB request."""
    arns = [f"arn:aws:dynamodb:{region}:{account_id}:table/{table}" for table in sorted(updated_tables(body))]
    return arns or table_arns(body, region, account_id)


iam_actions.extract_iam_action = action_of_statements
iam_actions.dynamodb_resource_arns = table_arns_of_statements

update_resource = provisioners._update_resource


def update_with_attributes(kind, physical_id, old, new, stack, logical_id=None, attributes=None):
    """Updates a resource. MiniStack loses the attributes of an unchanged resource in a nested stack, such as the
    outputs of a stack nested in it."""
    if attributes is None:
        attributes = _stacks[stack]["_resources"].get(logical_id, {}).get("Attributes")
    return update_resource(kind, physical_id, old, new, stack, logical_id, attributes)


provisioners._update_resource = update_with_attributes


def on_loop_and_wait(function):
    """Calls what creates, updates or deletes a resource on the event loop, as MiniStack does for a stack that is not
    nested. A nested stack has its own thread, on which these functions would read what others change."""

    def call(kind, *arguments, **options):
        try:
            asyncio.get_running_loop()
            is_on_loop = True
        except RuntimeError:
            is_on_loop = False
        if is_on_loop or stacks._runs_on_worker_thread(kind):
            return function(kind, *arguments, **options)
        context = contextvars.copy_context()

        async def run():
            return context.run(function, kind, *arguments, **options)

        return asyncio.run_coroutine_threadsafe(run(), app._MAIN_LOOP).result()

    return call


for name in ("_provision_resource", "_update_resource", "_delete_resource"):
    setattr(provisioners, name, on_loop_and_wait(getattr(provisioners, name)))

app.main()
