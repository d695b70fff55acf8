"""The output `metrics`: an HTTP page with the figures of the node, for Prometheus.

The page has counts and durations, such as the node signs for its operator. With `values` it also
has the latest answer, which the Publisher gives it like any other output: settled, rounded, and at
most once in `every_s`. It never has an estimate of a run.

This module needs the extra `metrics`. The registry that prometheus_client has in each process, with
metrics of the interpreter, is not shown.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from cipherfleet_node.core.round import Phase
from cipherfleet_node.settings.sections import AnswerMetrics

from .answer import Answer
from .figures import Figures

MIB = 1024.0 * 1024.0
CLOSE_WITHIN_S = 3.0


class MetricsPage:
    """The page of one node. The daemon's thread sets *figures*; threads of the server read them."""

    def __init__(self, settings: AnswerMetrics, fleet: str, node: str) -> None:
        self._settings, self._labels = settings, (fleet, node)
        self._server: tuple[WSGIServer, Thread] | None = None
        self._answer: Answer | None = None
        self.figures: Figures | None = None

    @property
    def where(self) -> str:
        """Host and port of the page."""
        host = self._settings.host
        return f"{f'[{host}]' if ':' in host else host}:{self._settings.port}"

    @property
    def is_open(self) -> bool:
        """True while the server runs."""
        return self._server is not None

    def open(self) -> None:
        """Start the server. Raises OSError if the address is in use, or is not of this machine."""
        registry = CollectorRegistry()
        registry.register(self)
        self._server = start_http_server(self._settings.port, self._settings.host, registry)

    def put(self, answer: Answer) -> None:
        """Show *answer*, in place of the one before."""
        self._answer = answer

    def close(self) -> None:
        """Stop the server, so that the port is free."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join(CLOSE_WITHIN_S)
        self._server = None

    def describe(self) -> Iterable[Metric]:
        """Return nothing: prometheus_client then does not collect when it registers."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, for one request."""
        info = GaugeMetricFamily("cipherfleet_node_info", "Always 1.", labels=("fleet", "node"))
        info.add_metric(self._labels, 1.0)
        yield info
        if self.figures is not None:
            yield from _health_metrics(self.figures)
            yield from _traffic_metrics(self.figures, time.monotonic())
        if self._answer is not None:
            yield from answer_metrics(self._answer)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"cipherfleet_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"cipherfleet_{name}", text, value=value)


def _by_label(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(f"cipherfleet_{name}", text, labels=(label,))
    for key, value in values:
        family.add_metric((key,), value)
    return family


def _counts(name: str, text: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = CounterMetricFamily(f"cipherfleet_{name}", text, labels=("reason",))
    for key, value in values:
        family.add_metric((key,), value)
    return family


def _health_metrics(figures: Figures) -> Iterator[Metric]:
    health = figures.health
    phases = [(each.value, float(each.value == health.phase)) for each in Phase]
    yield _by_label("phase", "1 for the phase of the node.", "phase", phases)
    yield _gauge("round", "Number of the latest round that was opened.", health.round)
    yield _counter(
        "coupled_rounds", "Rounds with a coupling term, over all starts.", figures.coupled
    )
    text = "Median duration of the latest rounds."
    yield _gauge("round_duration_seconds", text, health.round_us / 1e6)
    if health.settled is not None:
        yield _gauge("settled", "1 if the node has settled.", health.settled)
    text = "Neighbours without an answer in the latest round."
    yield _gauge("silent_neighbours", text, health.silent)
    text = "Neighbours that are not asked, since answers with theirs were out of range."
    yield _gauge("left_out_neighbours", text, len(health.left_out))
    yield _counter("missed_answers", "Answers that did not come.", health.missed)
    text = "Messages that were refused, by reason."
    yield _counts("refused_messages", text, health.rejected.items())
    text = "Messages that came late or twice, by reason."
    yield _counts("surplus_messages", text, health.surplus.items())
    text = "Obfuscators that are ready, in the pool that has the fewest."
    yield _gauge("pool_obfuscators", text, health.pool)
    yield _gauge("pool_size_obfuscators", "Obfuscators in a full pool.", health.pool_size)
    text = "Obfuscators made on demand, because a pool was empty."
    yield _counter("inline_obfuscators", text, health.inline)
    text = "Time without an answer, although neighbours speak; 0 if there is no such alert."
    yield _gauge("unanswered_seconds", text, health.unanswered_s)
    if health.generation is not None:
        text = "Generation that gave the node its shares; 0 if it has none."
        yield _gauge("generation", text, health.generation)
    if health.temperature is not None:
        text = "Temperature of the processor, in whole degrees."
        yield _gauge("processor_temperature_celsius", text, health.temperature)


def _traffic_metrics(figures: Figures, now: float) -> Iterator[Metric]:
    """Yield the figures that the health report does not have, at monotonic *now*."""
    text = "Connections with the broker of the fleet after the first."
    yield _counter("broker_reconnects", text, figures.reconnects)
    yield _counter("sent_messages", "Messages to the broker of the fleet.", figures.messages_sent)
    text = "Messages from the broker of the fleet."
    yield _counter("received_messages", text, figures.messages_received)
    yield _counter("sent_bytes", "Payloads to the broker of the fleet.", figures.bytes_sent)
    text = "Payloads from the broker of the fleet."
    yield _counter("received_bytes", text, figures.bytes_received)
    if figures.read_at is not None:
        text = "Age of the newest reading of the sensor."
        yield _gauge("reading_age_seconds", text, max(now - figures.read_at, 0.0))
    if figures.resident_mib is not None:
        text = "Resident memory of the process."
        yield _gauge("resident_memory_bytes", text, figures.resident_mib * MIB)


def answer_metrics(answer: Answer) -> Iterator[Metric]:
    """Yield the numbers of *answer*, which has been rounded."""
    model = answer.model
    text = "1 if the answer is settled; 0: the values are old."
    yield _gauge("answer_settled", text, answer.settled)
    yield _gauge("answer_round", "Round of the answer.", answer.round)
    if model.values:
        text = "Agreed value of a field."
        yield _by_label("answer_value", text, "field", model.values.items())
    if model.intercept is not None:
        yield _gauge("answer_intercept", "Agreed intercept.", model.intercept)
    if model.coefficients:
        text = "Agreed coefficient of a field."
        yield _by_label("answer_coefficient", text, "field", model.coefficients.items())
    if model.daily:
        text = "Agreed coefficient of a daily term."
        labels = ("field", "order", "part")
        daily = GaugeMetricFamily("cipherfleet_answer_daily", text, labels=labels)
        for each in model.daily:
            for part in ("sin", "cos"):
                daily.add_metric((each.field, str(each.order), part), getattr(each, part))
        yield daily
    for name, text in (
        ("corrected", "Prediction for the newest reading of the node."),
        ("residual", "Target minus prediction for the newest reading of the node."),
        ("z", "The residual in robust deviations of those in the window of the node."),
        ("alarm", "1 if the size of z is at least answer.alarm."),
        ("fleet_residual", "Mean residual of the fleet."),
        ("drift", "Mean residual of the node minus that of the fleet."),
        ("drift_z", "The drift in robust deviations from its usual value."),
        ("drift_alarm", "1 if the drift has left its usual range."),
    ):
        if (value := getattr(answer, name)) is not None:
            yield _gauge(f"answer_{name}", text, value)
