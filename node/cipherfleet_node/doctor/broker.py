"""Checks of a broker in steps: port, TLS, CONNECT, access rights, presence of the neighbours.

The checks publish nothing and set no last will, so other clients do not notice them.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from cryptography import x509

from cipherfleet_node.core import topics, wire
from cipherfleet_node.core.messages import Presence
from cipherfleet_node.errors import WireError
from cipherfleet_node.findings import Finding
from cipherfleet_node.keys.tls import EXPIRES_SOON, REISSUE_TLS
from cipherfleet_node.runtime.mqtt_probe import ConnectionClosed, MqttProbe, NoAnswer
from cipherfleet_node.settings.sections import Broker

STEP_TIMEOUT_S = 5.0  # for each step of the connection
REFUSAL_S = 0.5  # in TLS 1.3 a broker refuses a certificate after the client's handshake has ended
RETAINED_S = 1.0  # for the retained presence messages after the subscription
THERE = ("ready", "waiting", "alert", "done", "finished")  # not disconnected, not lost
# A CONNECT with a protocol level that does not exist. A broker refuses it before it reads the
# client id, so it ends no other connection (MQTT 3.1.1, section 3.1.2.2).
UNKNOWN_CONNECT = b"\x10\x10\x00\x04MQTT\x63\x02\x00\x0f\x00\x04look"
CONNACK = 0x20
CHECK_BROKER = "check that it is an MQTT broker that accepts this node, and read its log"


def address(broker: Broker) -> str:
    """Return HOST:PORT, with brackets around an IPv6 address."""
    host = f"[{broker.host}]" if ":" in broker.host else broker.host
    return f"{host}:{broker.port}"


def unreachable(broker: Broker, found: str, remedy: str) -> Finding:
    """Return the finding for a broker that no client can reach."""
    return Finding("fail", "broker", f"{address(broker)}: {found}", remedy)


def check_port(broker: Broker) -> Iterator[Finding]:
    """Check that the name resolves and that the port accepts connections."""
    try:
        socket.getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        remedy = "correct broker.host, or this machine's name service (/etc/resolv.conf)"
        yield unreachable(broker, "the name does not resolve", remedy)
        return
    began = time.perf_counter()
    try:
        socket.create_connection((broker.host, broker.port), STEP_TIMEOUT_S).close()
    except OSError as error:
        found = error.strerror or "no answer to a TCP connection"
        remedy = "start the broker, correct broker.host and broker.port, open the firewall"
        yield unreachable(broker, f"cannot connect ({found})", remedy)
        return
    took = 1000.0 * (time.perf_counter() - began)
    yield Finding("ok", "broker", f"{address(broker)}: accepts connections, in {took:.1f} ms")


def trust_only(ca: Path | None) -> ssl.SSLContext:
    """Return a context without a client certificate; without *ca* the broker is not verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if ca is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context.load_verify_locations(ca)
    return context


def check_tls(
    broker: Broker, context: ssl.SSLContext, now: datetime, *, certified: bool
) -> Iterator[Finding]:
    """Check the handshake, the broker's certificate and, if *certified*, that it accepts ours."""
    where = address(broker)
    try:
        with (
            _connected(broker) as plain,
            context.wrap_socket(plain, server_hostname=broker.host) as secured,
        ):
            yield _certificate_of(broker, context, secured, now)
            if certified:
                yield _acceptance(broker, secured)
    except ssl.SSLCertVerificationError as error:
        remedy = "set this machine's clock, correct broker.host, or get tls/ca.pem again"
        found = f"{where}: its certificate is not trusted: {error.verify_message}"
        yield Finding("fail", "tls", found, remedy)
    except TimeoutError:
        remedy = "check that this port is a broker's, and read the broker's log"
        yield unreachable(
            broker, f"accepts connections, but no TLS handshake in {STEP_TIMEOUT_S:g} s", remedy
        )
    except (ssl.SSLError, OSError) as error:
        found = f"{where}: no TLS 1.3 ({_reason_of(error)})"
        yield Finding("fail", "tls", found, "check that this is the TLS port and offers TLS 1.3")


def _reason_of(error: OSError) -> str:
    """Return OpenSSL's reason, or that of the system."""
    return str(getattr(error, "reason", None) or error.strerror or type(error).__name__)


def _connected(broker: Broker) -> socket.socket:
    return socket.create_connection((broker.host, broker.port), STEP_TIMEOUT_S)


def _certificate_of(
    broker: Broker, context: ssl.SSLContext, secured: ssl.SSLSocket, now: datetime
) -> Finding:
    raw = secured.getpeercert(binary_form=True)
    assert raw is not None  # a TLS 1.3 server without one does not finish the handshake
    ends = x509.load_der_x509_certificate(raw).not_valid_after_utc
    days = (ends - now).days
    text = f"{address(broker)}: {secured.version()}, its certificate expires in {days} d"
    if ends - now < EXPIRES_SOON:
        remedy = "get a new certificate for the broker from provisioning"
        return Finding("warn", "tls", text, remedy)
    if context.verify_mode == ssl.CERT_NONE:
        return Finding("ok", "tls", f"{text} (not verified here: tls/ca.pem cannot be read)")
    return Finding("ok", "tls", text)


def _acceptance(broker: Broker, secured: ssl.SSLSocket) -> Finding:
    """Wait shortly: a broker that refuses our certificate says so now, others wait for CONNECT."""
    secured.settimeout(REFUSAL_S)
    try:
        reason = "" if secured.recv(1) else "it closed the connection"
    except TimeoutError:
        reason = ""
    except OSError as error:
        reason = _reason_of(error)
    if not reason:
        return Finding("ok", "certificate", f"{address(broker)}: does not refuse it")
    found = f"{address(broker)}: refuses this node's certificate ({reason})"
    return Finding("fail", "certificate", found, f"{REISSUE_TLS}; the broker's log has details")


def check_speaks_mqtt(broker: Broker, context: ssl.SSLContext | None) -> Iterator[Finding]:
    """Check that the port speaks MQTT, without a session."""
    try:
        with _connected(broker) as plain:
            line = context.wrap_socket(plain, server_hostname=broker.host) if context else plain
            with line:
                line.sendall(UNKNOWN_CONNECT)
                answer = line.recv(4)
    except TimeoutError:
        answer, found = b"", f"no answer in {STEP_TIMEOUT_S:g} s"
    except OSError as error:
        answer, found = b"", _reason_of(error)
    else:
        found = "it closed the connection" if not answer else "it answers something else"
    if answer[:1] == bytes([CONNACK]):
        yield Finding("ok", "mqtt", f"{address(broker)}: speaks MQTT")
    else:
        yield Finding("fail", "mqtt", f"{address(broker)}: no MQTT ({found})", CHECK_BROKER)


def visitor_id(fleet: str, node: str) -> str:
    """Return a unique client id, so that the broker ends no other connection."""
    return f"{fleet}-{node}-doctor-{secrets.token_hex(8)}"


def check_session(
    broker: Broker,
    context: ssl.SSLContext | None,
    fleet: str,
    node: str,
    verifiers: Mapping[str, wire.Verifier],
) -> Iterator[Finding]:
    """Check CONNECT, TCP_NODELAY, the subscriptions within and outside of its rights, presence."""
    visitor = visitor_id(fleet, node)
    probe = MqttProbe((broker.host, broker.port), visitor, context, STEP_TIMEOUT_S)
    remedy = CHECK_BROKER
    try:
        began = time.perf_counter()
        reason = probe.connect(STEP_TIMEOUT_S)
        took = 1000.0 * (time.perf_counter() - began)
        if reason.is_failure:
            yield Finding("fail", "mqtt", f"{address(broker)}: refuses CONNECT ({reason})", remedy)
            return
        yield Finding("ok", "mqtt", f"{address(broker)}: accepts CONNECT, in {took:.1f} ms")
        yield _no_delay(probe)
        yield from _access(probe, fleet, node, list(verifiers), secured=context is not None)
        yield from _presence(probe, fleet, verifiers)
    except NoAnswer as error:
        # Over plain TCP this is the first step, so the port is probably not a broker's.
        subject = "broker" if context is None else "mqtt"
        yield Finding("fail", subject, f"{address(broker)}: {error}", remedy)
    except ConnectionClosed as error:
        remedy += "; it may require TLS" if context is None else ""
        yield Finding("fail", "mqtt", f"{address(broker)}: {error}", remedy)
    except OSError as error:
        found = f"the connection broke ({_reason_of(error)})"
        yield Finding("fail", "mqtt", f"{address(broker)}: {found}", remedy)
    finally:
        probe.close()


def _no_delay(probe: MqttProbe) -> Finding:
    if probe.has_no_delay():
        return Finding("ok", "no delay", "TCP_NODELAY is set: small packets leave at once")
    remedy = "look for a library that replaces sockets"
    text = "TCP_NODELAY cannot be set: a round trip takes 90 ms"
    return Finding("fail", "no delay", text, remedy)


def _access(
    probe: MqttProbe, fleet: str, node: str, neighbours: list[str], *, secured: bool
) -> Iterator[Finding]:
    own = topics.subscriptions(fleet, node, neighbours)
    if refused := probe.subscribe(own, STEP_TIMEOUT_S):
        text = f"the broker refuses {', '.join(refused)}, which this node needs"
        remedy = "its access rules differ from node.yaml: renew the rules or the bundle"
        yield Finding("fail", "access", text, remedy)
    else:
        yield Finding("ok", "access", f"all {len(own)} subscriptions of this node are granted")
    if not secured:
        yield Finding("skip", "rules", "plain TCP on this machine has no access rules")
        return
    # The broker must not deliver answers to a neighbour, nor the presence of nodes that are none.
    readable = {topics.presence_topic(fleet, name) for name in (node, *neighbours)}
    everyone = topics.presence_topic(fleet, "+")

    def is_delivered() -> bool:
        return any(_is_presence(topic, fleet) for topic in probe.received.keys() - readable)

    foreign = [topics.answer_topic(fleet, name, "+") for name in neighbours[:1]]
    refused = probe.subscribe([*foreign, everyone], STEP_TIMEOUT_S)
    if len(refused) <= len(foreign):
        probe.listen(is_delivered, REFUSAL_S)
    if is_delivered():
        text = "the broker delivers messages that this node has no right to"
        yield Finding("fail", "rules", text, "configure its access rules: see broker/README.md")
    elif len(refused) == len(foreign) + 1:
        yield Finding("ok", "rules", "subscriptions outside of the node's rights are refused")
    else:
        text = "the broker grants all subscriptions and delivers nothing: its rules do not show"
        yield Finding("skip", "rules", text)


def _is_presence(topic: str, fleet: str) -> bool:
    place = topics.read_topic(topic, fleet)
    return place is not None and place.kind == "presence"


def _presence(
    probe: MqttProbe, fleet: str, verifiers: Mapping[str, wire.Verifier]
) -> Iterator[Finding]:
    """Check the retained presence of each neighbour, with its signature."""
    wanted = {topics.presence_topic(fleet, name): name for name in verifiers}
    probe.listen(lambda: wanted.keys() <= probe.received.keys(), RETAINED_S)
    states: dict[str, str] = {}
    for topic, name in wanted.items():
        try:
            message = wire.decode(probe.received[topic], topic, fleet, verifiers)
            states[name] = message.state if isinstance(message, Presence) else "unknown"
        except KeyError:
            states[name] = "never seen"
        except WireError as error:
            states[name] = f"forged or old ({error.reason})"
    there = [name for name, state in states.items() if state in THERE]
    text = f"{len(there)} of {len(states)} neighbours are connected: "
    text += ", ".join(f"{name} {state}" for name, state in states.items())
    if len(there) == len(states):
        yield Finding("ok", "presence", text)
    else:
        yield Finding("warn", "presence", text, "start the other nodes, with this broker")
