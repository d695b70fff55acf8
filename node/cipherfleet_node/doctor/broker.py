"""What a doctor asks a broker, step by step: port, TLS, CONNECT, access, who is there.

Nothing is published and there is no last will: no other client notices that we were there.
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
from cipherfleet_node.keys.tls import EXPIRES_SOON, RENEW
from cipherfleet_node.runtime.mqtt_probe import REACH_S, Refused, Silent, Visit  # moved
from cipherfleet_node.settings.sections import Broker

REFUSAL_S = 0.5  # in TLS 1.3 a broker refuses a certificate after the client's handshake is over
RETAINED_S = 1.0  # for the retained presence to come, once subscribed
THERE = ("init", "ready", "waiting", "alert", "finished")  # not disconnected, not lost
# A CONNECT of a protocol that does not exist: a broker answers with its refusal before it looks at
# names, so it ends nobody's connection (MQTT 3.1.1, section 3.1.2.2).
UNKNOWN_CONNECT = b"\x10\x10\x00\x04MQTT\x63\x02\x00\x0f\x00\x04look"
CONNACK = 0x20


def address(broker: Broker) -> str:
    """HOST:PORT as people write it."""
    host = f"[{broker.host}]" if ":" in broker.host else broker.host
    return f"{host}:{broker.port}"


def unreachable(broker: Broker, found: str, mend: str) -> Finding:
    """The broker is not there, whoever asks."""
    return Finding("fail", "broker", f"{address(broker)}: {found}", mend)


def check_port(broker: Broker) -> Iterator[Finding]:
    """Whether the name resolves and the port takes connections."""
    try:
        socket.getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        mend = "correct broker.host, or this machine's name service (/etc/resolv.conf)"
        yield unreachable(broker, "the name does not resolve", mend)
        return
    began = time.perf_counter()
    try:
        socket.create_connection((broker.host, broker.port), REACH_S).close()
    except OSError as error:
        found = error.strerror or "no answer to a TCP connection"
        mend = "start the broker, correct broker.host and broker.port, open the firewall"
        yield unreachable(broker, f"cannot connect ({found})", mend)
        return
    took = 1000.0 * (time.perf_counter() - began)
    yield Finding("ok", "broker", f"{address(broker)}: takes connections, in {took:.1f} ms")


def trust_only(ca: Path | None) -> ssl.SSLContext:
    """A context without a certificate of ours: against *ca*, or to see what is there at all."""
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
    """The handshake, the broker's certificate, and, if *certified*, whether it accepts ours."""
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
        mend = "set this machine's clock, correct broker.host, or get tls/ca.pem anew"
        found = f"{where}: its certificate is not trusted: {error.verify_message}"
        yield Finding("fail", "tls", found, mend)
    except TimeoutError:
        mend = "is it a broker, and in order? its log may tell"
        yield unreachable(broker, f"takes connections, but no TLS handshake in {REACH_S:g} s", mend)
    except (ssl.SSLError, OSError) as error:
        found = f"{where}: no TLS 1.3 ({_why(error)})"
        yield Finding("fail", "tls", found, "is it the port for TLS? it must offer TLS 1.3")


def _why(error: OSError) -> str:
    """In a few words: OpenSSL's reason, or the system's."""
    return str(getattr(error, "reason", None) or error.strerror or type(error).__name__)


def _connected(broker: Broker) -> socket.socket:
    return socket.create_connection((broker.host, broker.port), REACH_S)


def _certificate_of(
    broker: Broker, context: ssl.SSLContext, secured: ssl.SSLSocket, now: datetime
) -> Finding:
    raw = secured.getpeercert(binary_form=True)
    assert raw is not None  # a TLS 1.3 server without one does not finish the handshake
    ends = x509.load_der_x509_certificate(raw).not_valid_after_utc
    text = f"{address(broker)}: {secured.version()}, its certificate ends in {(ends - now).days} d"
    if ends - now < EXPIRES_SOON:
        return Finding("warn", "tls", text, "a new certificate for the broker, from provisioning")
    if context.verify_mode == ssl.CERT_NONE:
        return Finding("ok", "tls", f"{text} (not verified here: its authority is not at hand)")
    return Finding("ok", "tls", text)


def _acceptance(broker: Broker, secured: ssl.SSLSocket) -> Finding:
    """A broker that does not like our certificate says so at once; others wait for CONNECT."""
    secured.settimeout(REFUSAL_S)
    try:
        reason = "" if secured.recv(1) else "it closed the connection"
    except TimeoutError:
        reason = ""
    except OSError as error:
        reason = _why(error)
    if not reason:
        return Finding("ok", "certificate", f"{address(broker)}: does not refuse it")
    found = f"{address(broker)}: refuses this node's certificate ({reason})"
    return Finding("fail", "certificate", found, f"{RENEW}; the broker's log tells more")


def check_speaks_mqtt(broker: Broker, context: ssl.SSLContext | None) -> Iterator[Finding]:
    """Whether MQTT is spoken there, without becoming anybody's client."""
    try:
        with _connected(broker) as plain:
            line = context.wrap_socket(plain, server_hostname=broker.host) if context else plain
            with line:
                line.sendall(UNKNOWN_CONNECT)
                answer = line.recv(4)
    except TimeoutError:
        answer, found = b"", f"no answer in {REACH_S:g} s"
    except OSError as error:
        answer, found = b"", _why(error)
    else:
        found = "it closed the connection" if not answer else "it answers something else"
    if answer[:1] == bytes([CONNACK]):
        yield Finding("ok", "mqtt", f"{address(broker)}: speaks MQTT")
    else:
        mend = "is it an MQTT broker, and does it let this node in? its log may tell"
        yield Finding("fail", "mqtt", f"{address(broker)}: no MQTT ({found})", mend)


def visitor_id(fleet: str, node: str) -> str:
    """A client id that nobody else has: brokers end the connection of whoever had it."""
    return f"{fleet}-{node}-doctor-{secrets.token_hex(8)}"


def check_session(
    broker: Broker,
    context: ssl.SSLContext | None,
    fleet: str,
    node: str,
    verifiers: Mapping[str, wire.Verifier],
) -> Iterator[Finding]:
    """CONNECT, TCP_NODELAY, the node's own subscriptions, one outside of its rights, presence."""
    visit = Visit(broker, visitor_id(fleet, node), context)
    mend = "is it an MQTT broker, and does it let this node in? its log may tell"
    try:
        began = time.perf_counter()
        reason = visit.connect()
        took = 1000.0 * (time.perf_counter() - began)
        if reason.is_failure:
            yield Finding("fail", "mqtt", f"{address(broker)}: refuses CONNECT ({reason})", mend)
            return
        yield Finding("ok", "mqtt", f"{address(broker)}: accepts CONNECT, in {took:.1f} ms")
        yield _no_delay(visit)
        yield from _access(visit, fleet, node, list(verifiers), secured=context is not None)
        yield from _presence(visit, fleet, verifiers)
    except Silent as silence:
        # Plain TCP has no other step before: this tells a port that is nobody's.
        subject = "broker" if context is None else "mqtt"
        yield Finding("fail", subject, f"{address(broker)}: {silence}", mend)
    except Refused as refusal:
        mend += "; does it want TLS?" if context is None else ""
        yield Finding("fail", "mqtt", f"{address(broker)}: {refusal}", mend)
    except OSError as error:
        found = f"the connection broke ({_why(error)})"
        yield Finding("fail", "mqtt", f"{address(broker)}: {found}", mend)
    finally:
        visit.client.disconnect()


def _no_delay(visit: Visit) -> Finding:
    if visit.no_delay():
        return Finding("ok", "no delay", "TCP_NODELAY is set: small packets leave at once")
    mend = "look for a library that replaces sockets"
    return Finding("fail", "no delay", "TCP_NODELAY cannot be set: 90 ms a round trip", mend)


def _access(
    visit: Visit, fleet: str, node: str, neighbours: list[str], *, secured: bool
) -> Iterator[Finding]:
    own = topics.subscriptions(fleet, node, neighbours)
    if refused := visit.subscribe(own):
        text = f"the broker refuses {', '.join(refused)}, which this node needs"
        mend = "its access rules and node.yaml differ: renew the rules, or the bundle"
        yield Finding("fail", "access", text, mend)
    else:
        yield Finding("ok", "access", f"all {len(own)} subscriptions of this node are granted")
    if not secured:
        yield Finding("skip", "rules", "plain TCP on this machine has no access rules")
        return
    # What the broker must not let us read: answers to a neighbour, and (retained) ourselves.
    mine = topics.presence_topic(fleet, node)
    foreign = [topics.answer_topic(fleet, name, "+") for name in neighbours[:1]]
    refused = visit.subscribe([*foreign, mine])
    if len(refused) <= len(foreign):
        visit.listen(lambda: mine in visit.received, REFUSAL_S)
    if mine in visit.received:
        text = "the broker delivers what is not for this node"
        yield Finding("fail", "rules", text, "give it the access rules: see broker/README.md")
    elif len(refused) == len(foreign) + 1:
        yield Finding("ok", "rules", "subscriptions outside of the node's rights are refused")
    else:
        text = "the broker grants subscriptions that it need not serve, and does not tell"
        yield Finding("skip", "rules", text)


def _presence(
    visit: Visit, fleet: str, verifiers: Mapping[str, wire.Verifier]
) -> Iterator[Finding]:
    """What the broker has retained of the neighbours; the nodes' signatures are checked."""
    wanted = {topics.presence_topic(fleet, name): name for name in verifiers}
    visit.listen(lambda: wanted.keys() <= visit.received.keys(), RETAINED_S)
    states: dict[str, str] = {}
    for topic, name in wanted.items():
        try:
            message = wire.decode(visit.received[topic], topic, fleet, verifiers)
            states[name] = message.state if isinstance(message, Presence) else "unknown"
        except KeyError:
            states[name] = "never seen"
        except WireError as error:
            states[name] = f"forged or old ({error.reason})"
    there = [name for name, state in states.items() if state in THERE]
    text = f"{len(there)} of {len(states)} are there: "
    text += ", ".join(f"{name} {state}" for name, state in states.items())
    if len(there) == len(states):
        yield Finding("ok", "presence", text)
    else:
        yield Finding("warn", "presence", text, "start those, on this broker")
