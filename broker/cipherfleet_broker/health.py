"""Health checks of a broker: an MQTT client sends a message and receives it.

An open port would not show that the program is an MQTT broker, that it admits the client, or that
it delivers messages.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from cipherfleet_node.errors import BrokerUnreachable
from cipherfleet_node.runtime.mqtt_probe import ConnectionClosed, MqttProbe, NoAnswer

# No fleet can be called _health: its name starts with a letter or a digit.
HEALTH_TOPIC = "cf/v2/_health"


def check_broker(
    host: str, port: int, timeout_s: float = 5.0, context: ssl.SSLContext | None = None
) -> None:
    """Send one QoS 1 message through the broker at *host*:*port* and receive it again.

    With *context* the connection uses TLS. Raises BrokerUnreachable, naming the step that failed,
    if the message and its acknowledgement do not arrive within *timeout_s*. The deadline cannot
    interrupt the resolution of the host's name.
    """
    with closing(_HealthCheck(host, port, timeout_s, context)) as check:
        check.connect()
        check.subscribe()
        payload = check.publish(check.topic)
        check.await_message(payload, "it did not deliver a QoS 1 message")


def check_listening(host: str, port: int, timeout_s: float, context: ssl.SSLContext) -> None:
    """Raise BrokerUnreachable unless *host*:*port* presents a certificate that *context* trusts."""
    try:
        with (
            socket.create_connection((host, port), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            pass
    except OSError as error:  # SSLError is an OSError
        raise BrokerUnreachable(
            f"no broker at {host}:{port}: {error.strerror or error}", remedy="is it running?"
        ) from None


def check_link(
    source: tuple[str, int],
    target: tuple[str, int],
    timeout_s: float = 5.0,
    context: ssl.SSLContext | None = None,
) -> None:
    """Send one QoS 1 message to the broker at *source* and receive it from the one at *target*.

    Both belong to one cluster. Raises BrokerUnreachable if it does not arrive within *timeout_s*.
    """
    receiver = _HealthCheck(*target, timeout_s, context)
    sender = _HealthCheck(*source, timeout_s, context)
    with closing(receiver), closing(sender):
        receiver.connect()
        receiver.subscribe()
        sender.connect()
        payload = sender.publish(receiver.topic)
        problem = f"it did not deliver a QoS 1 message from {source[0]}:{source[1]}"
        receiver.await_message(payload, problem)


class _HealthCheck:
    """An MQTT probe with one deadline for all its steps, and a topic of its own.

    Every method raises BrokerUnreachable if its step fails.
    """

    def __init__(
        self, host: str, port: int, timeout_s: float, context: ssl.SSLContext | None
    ) -> None:
        self._host, self._port, self._timeout_s = host, port, timeout_s
        self._deadline = time.monotonic() + timeout_s
        client_id = f"health-{secrets.token_hex(6)}"
        self.topic = f"{HEALTH_TOPIC}/{client_id}"
        self._probe = MqttProbe((host, port), client_id, context, timeout_s)

    def connect(self) -> None:
        with self._explain("it did not answer MQTT CONNECT") as left_s:
            try:
                reply = self._probe.connect(left_s)
            except (OSError, ValueError) as error:
                found = getattr(error, "strerror", None) or str(error)
                raise self._unreachable(
                    f"cannot connect ({found})", "is it running, and are host and port right?"
                ) from None
        if reply.is_failure:
            raise self._unreachable(
                f"it refused the connection ({reply})",
                "does it require a certificate or a password?",
            )

    def subscribe(self) -> None:
        with self._explain("it did not answer SUBSCRIBE") as left_s:
            refused = self._probe.subscribe([self.topic], left_s)
        if (reason := refused.get(self.topic)) is not None:
            raise self._unreachable(
                f"it refused a subscription to {self.topic} ({reason})",
                f"its access rules must allow {HEALTH_TOPIC}/#",
            )

    def publish(self, topic: str) -> bytes:
        """Publish a random payload on *topic*, and return it."""
        payload = secrets.token_bytes(16)
        with self._explain("it did not acknowledge a QoS 1 message") as left_s:
            self._probe.publish(topic, payload, left_s)
        return payload

    def await_message(self, payload: bytes, problem: str) -> None:
        with self._explain(problem) as left_s:
            self._probe.await_message(self.topic, payload, left_s)

    def close(self) -> None:
        self._probe.close()

    @contextmanager
    def _explain(self, problem: str) -> Iterator[float]:
        """Yield the seconds left for a step, and report its failure as *problem*."""
        advice = "is it an MQTT broker, and does it work? its log may give the reason"
        try:
            yield self._deadline - time.monotonic()
        except NoAnswer:
            text = f"{problem} in {self._timeout_s:g} s"
            raise self._unreachable(text, advice) from None
        except ConnectionClosed:
            raise self._unreachable(f"{problem} and closed the connection", advice) from None

    def _unreachable(self, found: str, advice: str) -> BrokerUnreachable:
        return BrokerUnreachable(
            f"no working broker at {self._host}:{self._port}: {found}", remedy=advice
        )
