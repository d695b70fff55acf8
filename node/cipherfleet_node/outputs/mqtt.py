"""The output `mqtt`: each answer as a retained message at a broker of the owner's own.

The client has its own thread and connects again by itself. While the broker is away, only the
latest answer waits. The broker publishes the last will `offline` when the node dies.

**Never the broker of the fleet.** Its operator and all members could read there what they must not
learn. The settings refuse the same host and port (settings/rules.py). own_broker.py also refuses
two names with a common address.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from pathlib import Path

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from cipherfleet_node.own_broker import (
    BrokerNotUsable,
    follow_connection,
    refuse_same_broker,
    secure,
)
from cipherfleet_node.settings.sections import AnswerMqtt

from .answer import Answer
from .file import encode
from .homeassistant import discovery
from .publisher import OutputFailed

log = logging.getLogger(__name__)

KEEPALIVE_S = 30
RECONNECT_S = (1, 120)  # the shortest and the longest delay
SENT_WITHIN_S = 2.0  # for the last message, when the node stops
# With each connection the latest answer is sent again. At QoS 1 paho would then repeat an older one
# after it, which would stay retained.
QOS = 0
ONLINE, OFFLINE = b"online", b"offline"


class AnswerBroker:
    """Publish to the broker of *settings*, whose files are relative to *folder*."""

    def __init__(
        self,
        settings: AnswerMqtt,
        whose: tuple[str, str],
        folder: Path,
        fleet_broker: tuple[str, int],
    ) -> None:
        """Begin to connect. *whose* is the fleet and the node; *fleet_broker* must not be reached.

        Raises OutputFailed if the broker is that of the fleet, or if a file cannot be read.
        """
        client = paho.Client(CallbackAPIVersion.VERSION2, clean_session=True)
        try:
            refuse_same_broker((settings.host, settings.port), fleet_broker, "the answer")
            secure(client, settings, folder)
        except BrokerNotUsable as error:
            raise OutputFailed(error.text, remedy=error.remedy) from None
        fleet, node = whose
        self._where = f"{settings.host}:{settings.port}"
        self._topic = settings.topic.replace("{fleet}", fleet).replace("{node}", node)
        self._availability = f"{self._topic}/availability"
        self._has_discovery = settings.homeassistant
        self._lock = threading.Lock()
        self._latest: Answer | None = None
        self._announced: Collection[str] = ()  # topics of discovery, in this connection
        self._is_away: bool | None = None  # as the log has it; None: not known yet
        self._client = client
        client.will_set(self._availability, OFFLINE, qos=1, retain=True)
        client.reconnect_delay_set(*RECONNECT_S)
        follow_connection(client, self._connected, self._report, self._report)
        client.connect_async(settings.host, settings.port, KEEPALIVE_S)
        client.loop_start()

    def publish(self, answer: Answer) -> None:
        """Send *answer* if the broker is there, otherwise as soon as it is."""
        with self._lock:
            self._latest = answer
            if self._client.is_connected():
                self._send(answer)

    def close(self) -> None:
        """Say `offline` and disconnect."""
        if self._client.is_connected():
            self._client.publish(self._availability, OFFLINE, QOS, retain=True).wait_for_publish(
                SENT_WITHIN_S
            )
        self._client.disconnect()
        self._client.loop_stop()

    def _send(self, answer: Answer) -> None:
        if self._has_discovery:
            messages = discovery(answer, self._topic, self._availability)
            if messages.keys() != set(self._announced):
                self._announced = [*messages]
                for topic, message in messages.items():
                    self._client.publish(topic, msgspec.json.encode(message), QOS, retain=True)
        self._client.publish(self._topic, encode(answer), QOS, retain=True)

    # -- in paho's thread -------------------------------------------------------------------------

    def _connected(self) -> None:
        self._report("")
        with self._lock:
            self._announced = ()
            self._client.publish(self._availability, ONLINE, QOS, retain=True)
            if self._latest is not None:
                self._send(self._latest)

    def _report(self, problem: str) -> None:
        """Log that the broker is away, or is back: one line for each change."""
        if self._is_away is not bool(problem):
            self._is_away = bool(problem)
            if problem:
                log.warning("answer.mqtt: the broker at %s %s; trying again", self._where, problem)
            else:
                log.info("answer.mqtt: connected to the broker at %s", self._where)
