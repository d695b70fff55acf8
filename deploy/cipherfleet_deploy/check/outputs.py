"""Who reads the agreed answer: one finding for each output of the section `answer`."""

from __future__ import annotations

from collections.abc import Iterator

from cipherfleet_node.findings import Finding
from cipherfleet_node.settings.rules import is_loopback
from cipherfleet_node.settings.sections import AnswerMetrics, AnswerMqtt, settled_accuracy
from cipherfleet_provisioning.fleet.fleet import Fleet

ANSWER = "answer"  # subject of findings


def output_findings(fleet: Fleet) -> Iterator[Finding]:
    """Yield who reads each output, and a failure for one that others on the network can read.

    `load_fleet` has refused the broker of the fleet already.
    """
    answer = fleet.file.answer
    if answer.metrics is not None:
        yield _metrics(answer.metrics, _shown(fleet))
    if settled_accuracy(fleet.file) is None:
        yield Finding(
            "note",
            ANSWER,
            "no node publishes an answer: in method article the rounds do not show when a node has "
            "settled",
            "set algorithm.method: exact",
        )
        return
    shown = _shown(fleet)
    if fleet.file.objective.drift is not None:
        text = "objective.drift: every node also learns the mean of the residuals of the fleet"
        yield Finding("ok", ANSWER, text)
    if answer.file:
        text = "answer.file: on each device, its user and the group of that user read "
        yield Finding("ok", ANSWER, f"{text}outputs/answer.json, with {shown}")
    if answer.exec is not None:
        yield Finding("ok", ANSWER, f"answer.exec: the program {answer.exec[0]!r} gets {shown}")
    if answer.mqtt is not None:
        yield _mqtt(answer.mqtt, shown)
    for name in answer.plugins:
        text = f"answer.plugins: the plug-in {name!r} gets {shown}, and has the rights of the node"
        yield Finding("note", ANSWER, text, "install plug-ins of trusted authors only")


def _shown(fleet: Fleet) -> str:
    if fleet.file.objective.target is None:
        return "the parameters"
    return "the parameters and, by corrected value and residual, the readings of that node"


def _metrics(metrics: AnswerMetrics, shown: str) -> Finding:
    where = f"answer.metrics: http://{metrics.host}:{metrics.port}/metrics"
    text = "counts and durations" + (f", and {shown}" if metrics.values else "")
    if is_loopback(metrics.host):
        return Finding("ok", ANSWER, f"{where}: programs on each device itself read {text}")
    return Finding(
        "fail",
        ANSWER,
        f"{where} is open to the network, without TLS and without a password: everybody there "
        f"reads {text}",
        "leave answer.metrics.host out, and run Prometheus or its agent on the device",
    )


def _mqtt(mqtt: AnswerMqtt, shown: str) -> Finding:
    where = f"answer.mqtt: {mqtt.host}:{mqtt.port}"
    if is_loopback(mqtt.host):
        text = f"{where}, a broker on each device itself, and its clients read {shown}"
        return Finding("ok", ANSWER, text)
    if mqtt.tls:
        text = f"{where}, over TLS: its operator and its clients read {shown}"
        return Finding("ok", ANSWER, text)
    text = f"{where} without TLS: everybody on the way to that broker reads {shown}"
    return Finding("fail", ANSWER, text, "set answer.mqtt.tls: true, or use a broker on the device")
