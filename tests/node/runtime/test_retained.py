"""Brokers keep a query that is published with the retain flag; a node refuses it."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_broker.mosquitto import find_mosquitto
from cipherfleet_node.core.messages import Message, Presence
from cipherfleet_node.core.wire import decode, encode, topic_of
from cipherfleet_node.errors import ConfigError, WireError
from cipherfleet_node.runtime.mqtt import Arrived, Link, LinkUp
from cipherfleet_node.settings.sections import Broker
from tests.support.queries import query_of

PATIENCE_S = 60.0
SIGNER = Ed25519PrivateKey.generate()
QUERY = query_of("f", "a", 1, 3, [], [b"c"])
PRESENCE = Presence("f", "a", 1, "ready")


@pytest.fixture(params=["embedded", "mosquitto"])
def broker(request: pytest.FixtureRequest) -> Iterator[RunningBroker]:
    if request.param == "mosquitto":
        try:
            find_mosquitto()
        except ConfigError as error:
            pytest.skip(f"THE RECOMMENDED BROKER WAS NOT TESTED: {error}")
    with start_broker(request.param) as running:
        yield running


@contextmanager
def link(
    broker: RunningBroker, name: str, *messages: Message
) -> Iterator[tuple[Link, queue.SimpleQueue[object]]]:
    """A connected link of client *name* that subscribes to the topics of *messages*."""
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    address = Broker(host=broker.host, port=broker.port)
    made = Link(name, address, [topic_of(each) for each in messages], None, events.put)
    made.start()
    try:
        while events.get(timeout=PATIENCE_S) != LinkUp():
            pass
        yield made, events
    finally:
        made.stop(5.0)


def next_of(events: queue.SimpleQueue[object]) -> Arrived:
    event = events.get(timeout=PATIENCE_S)
    assert isinstance(event, Arrived)
    return event


def read(arrived: Arrived) -> Message:
    verifiers = {"a": SIGNER.public_key()}
    return decode(arrived.payload, arrived.topic, "f", verifiers, retained=arrived.retained)


@pytest.mark.fleet
def test_a_query_that_the_broker_kept_is_refused(broker: RunningBroker) -> None:
    with link(broker, "a", PRESENCE) as (sender, own), link(broker, "early", QUERY) as (_, early):
        for message in (QUERY, PRESENCE):
            sender.publish(topic_of(message), encode(message, SIGNER), retain=True)
        assert read(next_of(early)) == QUERY  # live: the broker clears the flag
        next_of(own)  # the broker has both now
        with link(broker, "late", QUERY) as (_, late):
            with pytest.raises(WireError) as refused:
                read(next_of(late))
            assert refused.value.reason == "retained"
        with link(broker, "later", PRESENCE) as (_, later):
            assert read(next_of(later)) == PRESENCE
