"""A device on the AWS IoT Device SDK for Python that follows the desired state of its shadow.

    device_sdk.py HOST PORT CA CERTIFICATE KEY THING

It prints a line for each step.
"""

import json
import sys
from concurrent.futures import Future

from awscrt.mqtt_request_response import ClientOptions, SubscriptionStatusEventType
from awsiot import ServiceStreamOptions, iotshadow, mqtt5_client_builder

# Seconds per step.
TIMEOUT = 300


def log(line):
    print(line, flush=True)


def settle(future, value):
    """Sets the result of a future once; later calls have no effect."""
    if not future.done():
        future.set_result(value)


def main(host, port, ca, certificate, key, thing):
    connected, stopped, listening, delta = Future(), Future(), Future(), Future()
    client = mqtt5_client_builder.mtls_from_path(
        cert_filepath=certificate,
        pri_key_filepath=key,
        endpoint=host,
        port=int(port),
        ca_filepath=ca,
        client_id=thing,
        # Retries by itself, as a device with a new certificate must.
        min_reconnect_delay_ms=200,
        max_reconnect_delay_ms=2000,
        on_lifecycle_connection_success=lambda event: settle(connected, event),
        on_lifecycle_connection_failure=lambda event: log("denied"),
        on_lifecycle_stopped=lambda event: settle(stopped, event),
    )
    client.start()
    connected.result(TIMEOUT)
    log("connected")

    shadow = iotshadow.IotShadowClientV2(client, ClientOptions(2, 2, TIMEOUT))

    def report(state):
        request = iotshadow.UpdateShadowRequest(thing_name=thing, state=iotshadow.ShadowState(reported=state))
        shadow.update_shadow(request).result(TIMEOUT)

    def subscribed(event):
        if event.type == SubscriptionStatusEventType.SUBSCRIPTION_ESTABLISHED:
            settle(listening, event)

    deltas = shadow.create_shadow_delta_updated_stream(
        iotshadow.ShadowDeltaUpdatedSubscriptionRequest(thing_name=thing),
        ServiceStreamOptions(
            incoming_event_listener=lambda event: settle(delta, event.state),
            subscription_status_listener=subscribed,
        ),
    )
    deltas.open()
    listening.result(TIMEOUT)
    report({"power": "off"})
    log("reported off")

    desired = delta.result(TIMEOUT)
    log("delta " + json.dumps(desired))
    report(desired)
    current = shadow.get_shadow(iotshadow.GetShadowRequest(thing_name=thing)).result(TIMEOUT).state
    log("remaining delta: " + json.dumps(current.delta))

    client.stop()
    stopped.result(TIMEOUT)


main(*sys.argv[1:])
