"""The output `metrics`: the page, what is on it, and who reads it."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cipherfleet_node.core.messages import Health
from cipherfleet_node.installation import install_command
from cipherfleet_node.outputs import load
from cipherfleet_node.outputs.figures import Figures
from cipherfleet_node.outputs.file import answer_file
from cipherfleet_node.outputs.metrics import MetricsPage
from cipherfleet_node.runtime import metrics_output
from cipherfleet_node.runtime.metrics_output import MetricsOutput
from cipherfleet_node.settings.sections import AnswerMetrics, AnswerSection, NodeConfig
from tests.support.daemons import open_daemons
from tests.support.paths import ROOT
from tests.support.prometheus import complaints_about, running_prometheus

from .test_command import FULL

HEALTH = Health(
    fleet="trial",
    sender="n1",
    epoch=1,
    number=3,
    phase="collecting",
    round=41,
    round_us=250_000,
    silent=1,
    missed=2,
    rejected={"bad_signature": 3, "too_long": 1},
    surplus={"late": 4},
    pool=5,
    pool_size=8,
    inline=6,
    left_out=["n2"],
    unanswered_s=0,
    settled=False,
    temperature=51,
    generation=3,
)
FIGURES = Figures(
    health=HEALTH,
    coupled=40,
    reconnects=2,
    messages_sent=100,
    messages_received=200,
    bytes_sent=3000,
    bytes_received=6000,
    read_at=0.0,
    resident_mib=32.0,
)
READINGS = {
    "n1": [20.0] * 6 + [21.0] * 2,
    "n2": [20.5] * 8,
    "n3": [19.9] * 6 + [20.5] * 2,
}
DRIFTING = """\
config_version: 1
fleet: trial
crypto: {{key_bits: 512, allow_weak_keys: true}}
algorithm: {{period_s: 0.05, answer_timeout_s: 20, start_timeout_s: 60}}
answer: {{every_s: 1, metrics: {{port: {port}, values: true}}}}
objective:
  kind: least_squares
  drift: {{window: 2}}
  target: {{field: t, offset: 20, scale: 5}}
  features: [{{constant: 1}}]
topology: {{kind: complete}}
nodes:
  - {{each: 3, id: "n{{n}}", sensor: {{kind: csv, path: readings.csv, where: {{node: "n{{n}}"}}}}}}
"""
Values = dict[tuple[str, ...], float]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    made = MetricsPage(AnswerMetrics(port=free_port()), "trial", "n1")
    made.open()
    yield made
    made.close()


def read(where: str) -> bytes:
    with urllib.request.urlopen(f"http://{where}/metrics", timeout=30) as answer:
        found: bytes = answer.read()
        return found


def values_of(text: bytes) -> Values:
    """The samples on the page by their names and labels."""
    return {
        (sample.name.removeprefix("cipherfleet_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_a_page_without_figures_says_whose_it_is_and_nothing_else(page: MetricsPage) -> None:
    assert values_of(read(page.where)) == {("node_info", "trial", "n1"): 1.0}


def test_the_page_has_the_counts_and_durations_of_the_health_report(page: MetricsPage) -> None:
    page.figures = FIGURES
    found = values_of(read(page.where))
    assert found.pop(("reading_age_seconds",)) > 0.0
    assert found == {
        ("node_info", "trial", "n1"): 1.0,
        ("phase", "starting"): 0.0,
        ("phase", "reading"): 0.0,
        ("phase", "collecting"): 1.0,
        ("phase", "finished"): 0.0,
        ("round",): 41.0,
        ("coupled_rounds_total",): 40.0,
        ("round_duration_seconds",): 0.25,
        ("settled",): 0.0,
        ("silent_neighbours",): 1.0,
        ("left_out_neighbours",): 1.0,
        ("missed_answers_total",): 2.0,
        ("refused_messages_total", "bad_signature"): 3.0,
        ("refused_messages_total", "too_long"): 1.0,
        ("surplus_messages_total", "late"): 4.0,
        ("pool_obfuscators",): 5.0,
        ("pool_size_obfuscators",): 8.0,
        ("inline_obfuscators_total",): 6.0,
        ("unanswered_seconds",): 0.0,
        ("generation",): 3.0,
        ("processor_temperature_celsius",): 51.0,
        ("broker_reconnects_total",): 2.0,
        ("sent_messages_total",): 100.0,
        ("received_messages_total",): 200.0,
        ("sent_bytes_total",): 3000.0,
        ("received_bytes_total",): 6000.0,
        ("resident_memory_bytes",): 32.0 * 1024**2,
    }


def test_every_field_of_the_health_report_is_on_the_page_or_names_the_report() -> None:
    names = {"fleet", "sender", "epoch", "number"}
    assert names == set(Health.__struct_fields__) - {
        *("phase", "round", "round_us", "silent", "missed", "rejected", "surplus", "pool"),
        *("pool_size", "inline", "left_out", "unanswered_s", "settled", "temperature"),
        "generation",
    }


def test_the_answer_is_on_the_page_with_the_digits_that_it_has(page: MetricsPage) -> None:
    page.put(FULL)
    found = values_of(read(page.where))
    answer = {key: value for key, value in found.items() if key[0].startswith("answer_")}
    assert answer == {
        ("answer_settled",): 1.0,
        ("answer_round",): 4.0,
        ("answer_intercept",): 1.25,
        ("answer_coefficient", "pm10"): 0.41,
        ("answer_coefficient", "rh"): -0.1,
        ("answer_daily", "hour", "2", "sin"): 0.5,
        ("answer_daily", "hour", "2", "cos"): -0.25,
        ("answer_corrected",): 23.1,
        ("answer_residual",): 1.8,
        ("answer_z",): 0.6,
        ("answer_alarm",): 0.0,
    }
    page.put(msgspec.structs.replace(FULL, settled=False, drift=1.5, drift_alarm=True))
    later = values_of(read(page.where))
    assert later["answer_settled",] == 0.0
    assert later["answer_drift",] == 1.5
    assert later["answer_drift_alarm",] == 1.0


def test_promtool_finds_nothing_to_say_about_the_page(page: MetricsPage) -> None:
    page.figures = FIGURES
    page.put(FULL)
    assert complaints_about(read(page.where)) == ""
    assert "no help text" in complaints_about(b"# TYPE x_total counter\nx_total 1\n")


def test_a_page_that_is_closed_leaves_its_port(page: MetricsPage) -> None:
    assert read(page.where)
    page.close()
    with pytest.raises(urllib.error.URLError):
        read(page.where)
    page.open()
    assert read(page.where)


# -- in a node ------------------------------------------------------------------------------------


def config(tmp_path: Path, metrics: AnswerMetrics | None) -> NodeConfig:
    from cipherfleet_node.settings.node_yaml import load_node_config

    from .test_command import NODE

    (tmp_path / "node.yaml").write_text(NODE)
    answer = AnswerSection(metrics=metrics)
    return msgspec.structs.replace(load_node_config(tmp_path), answer=answer)


def test_a_port_in_use_is_one_line_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        output = MetricsOutput(config(tmp_path, AnswerMetrics(port=port)))
        with caplog.at_level(logging.WARNING):
            for turn in range(3):
                output.show(metrics_output.TRY_EVERY_S * turn, FIGURES)
    assert [r.getMessage() for r in caplog.records] == [
        f"answer.metrics: no page at 127.0.0.1:{port}: Address already in use; trying again"
    ]
    output.show(metrics_output.TRY_EVERY_S * 4, FIGURES)
    assert values_of(read(f"127.0.0.1:{port}"))["round",] == 41.0
    output.close()


def test_without_the_library_the_node_runs_and_says_what_to_install(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cipherfleet_node.outputs.metrics", None)
    output = MetricsOutput(config(tmp_path, AnswerMetrics(values=True)))
    assert not output.is_on
    assert output.sinks == []
    assert f"install it with {install_command('metrics')}, and restart" in caplog.text
    output.close()


def test_a_daemon_without_the_output_does_not_load_the_library() -> None:
    code = (
        "import sys, cipherfleet_node.runtime.daemon\n"
        "assert not {'prometheus_client', 'http.server', 'wsgiref'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.fleet
def test_prometheus_reads_a_running_node_and_no_value_before_it_has_settled(
    tmp_path: Path,
) -> None:
    """The fleet also agrees on the mean of its residuals, which are 0.733, 0.233 and 0.233 here."""
    port, names = free_port(), ["n1", "n2", "n3"]
    lines = [f"{name},{t}" for name, values in READINGS.items() for t in values]
    (tmp_path / "readings.csv").write_text("\n".join(["node,t", *lines]) + "\n")
    pages: list[bytes] = []
    with (
        open_daemons(tmp_path, text=DRIFTING.format(port=port)) as daemons,
        running_prometheus(tmp_path, port, free_port()) as prometheus,
    ):
        # One machine has one such port: the nodes after the first say so and go on.
        daemons.start("n1")
        daemons.wait(lambda: bool(tried(port, pages)), "page", 60.0)
        daemons.start("n2", "n3")
        assert prometheus.wait(f'up{{instance="127.0.0.1:{port}"}} == 1')
        common = prometheus.wait("cipherfleet_answer_fleet_residual", 240.0)
        own = prometheus.wait("cipherfleet_answer_drift")
        rounds = prometheus.wait("cipherfleet_coupled_rounds_total > 0")
        daemons.wait(lambda: "Address already in use" in daemons.log("n2"), "line in the log")
        file = answer_file(daemons.bundles["n2"])
        daemons.wait(file.exists, "answer of n2", 240.0)
        other = load(daemons.bundles["n2"])
        daemons.wait_for_rounds(names, 3)
    assert float(common[0]["value"][1]) == pytest.approx(0.4, abs=0.01)
    assert float(own[0]["value"][1]) == pytest.approx(0.733 - 0.4, abs=0.01)
    assert other.fleet_residual == pytest.approx(0.4, abs=0.01)
    assert other.drift == pytest.approx(0.233 - 0.4, abs=0.01)
    assert other.model.intercept == pytest.approx(20.267, abs=0.01)
    assert (other.drift_z, other.drift_alarm) == (None, False)
    assert float(rounds[0]["value"][1]) > 0
    assert pages
    assert not any(b"cipherfleet_answer" in each for each in pages)


def tried(port: int, pages: list[bytes]) -> bool:
    """Read the page if it is there."""
    try:
        pages.append(read(f"127.0.0.1:{port}"))
    except OSError:
        threading.Event().wait(0.1)
        return False
    return True
