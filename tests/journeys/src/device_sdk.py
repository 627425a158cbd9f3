"""A device on the AWS IoT Device SDK for Python: it does what its shadow asks of it, and reports that.

    device_sdk.py HOST PORT CA CERTIFICATE KEY THING

It says on standard output how far it is, a line each.
"""

import json
import sys
from concurrent.futures import Future

from awscrt.mqtt_request_response import ClientOptions, SubscriptionStatusEventType
from awsiot import ServiceStreamOptions, iotshadow, mqtt5_client_builder

# Seconds, for each step.
LIMIT = 60


def say(what):
    print(what, flush=True)


def settle(future, value):
    """For what may happen again: the first time counts."""
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
        # It tries again by itself, as a device does whose certificate is new to AWS IoT.
        min_reconnect_delay_ms=200,
        max_reconnect_delay_ms=2000,
        on_lifecycle_connection_success=lambda event: settle(connected, event),
        on_lifecycle_connection_failure=lambda event: say("turned away"),
        on_lifecycle_stopped=lambda event: settle(stopped, event),
    )
    client.start()
    connected.result(LIMIT)
    say("connected")

    shadow = iotshadow.IotShadowClientV2(client, ClientOptions(2, 2, LIMIT))

    def report(state):
        request = iotshadow.UpdateShadowRequest(thing_name=thing, state=iotshadow.ShadowState(reported=state))
        shadow.update_shadow(request).result(LIMIT)

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
    listening.result(LIMIT)
    report({"power": "off"})
    say("reported off")

    asked = delta.result(LIMIT)
    say("asked for " + json.dumps(asked))
    report(asked)
    now = shadow.get_shadow(iotshadow.GetShadowRequest(thing_name=thing)).result(LIMIT).state
    say("left to do: " + json.dumps(now.delta))

    client.stop()
    stopped.result(LIMIT)


main(*sys.argv[1:])
