"""Ratios of the exchange by their real command, on tiny numbers; no test asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest

from cipherfleet_hil.measuring.exchange_scene import KeyMaterial, Phe
from cipherfleet_hil.measuring.sampling import Effort, TimedCase, WrongResult
from exchange_ratios.comparisons import (
    CIPHERTEXTS,
    DECRYPTION,
    EXCHANGE,
    MESSAGES,
    NEIGHBOUR,
    OWN,
    PARTS,
    PHE_JSON,
    compare_exchanges,
)
from exchange_ratios.interleaved import InterleavedComparison, RatioSpread, run_interleaved
from tests.support.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "exchange.py"
GATES = {
    "online-1", "online-4", "all-1", "all-4", "reference-library", "bytes", "own-crt", "own-table",
    "combined-4",
}  # fmt: skip
ONE_PASS = Effort(0.0, 1)


def ended(*command: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    sizes = ("--bits", 1024, "--dimensions", 2, "--degrees", 1, 2, "--seconds", 0, "--libraries")
    return ended(SCRIPT, *sizes, *arguments)


def gate(*arguments: object) -> subprocess.CompletedProcess[str]:
    return ended(SCRIPT, "--gate", "--bits", 1024, "--seconds", 0, "--passes", 1, *arguments)


# -- the commands --------------------------------------------------------------------------------


def test_the_report_says_where_it_comes_from_and_that_every_result_was_checked() -> None:
    result = compare("--json")
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("comparisons: 0 of 7\n"), "lines where there is no terminal"
    report = json.loads(result.stdout)
    assert (report["benchmark"], report["kind"]) == ("crypto", "host")
    assert report["machine"].keys() == {"cpu", "architecture", "cores", "load_before"}
    assert {"cipherfleet", "python", "gmpy2", "gmp", "numpy", "phe"} <= report["versions"].keys()
    comparisons = report["comparisons"]
    assert [(c["comparison"], c["dimension"], c["degree"]) for c in comparisons] == [
        (OWN, None, None),
        (NEIGHBOUR, None, None),
        (DECRYPTION, None, 2),
        (PARTS, 2, 1),
        (PARTS, 2, 2),
        (EXCHANGE, 2, 1),
        (EXCHANGE, 2, 2),
    ]
    for comparison in comparisons:
        assert comparison["key_bits"] == 1024
        assert comparison["unsafe"] is True
        assert comparison["passes"] >= 3
        assert comparison["checked"] >= comparison["passes"] * len(comparison["ms"])
        assert all(0 < ms["minimum"] <= ms["median"] for ms in comparison["ms"].values())
        for ratio in comparison["ratios"]:
            assert ratio["minimum"] <= ratio["p10"] <= ratio["median"] <= ratio["p90"]
            assert {ratio["slow"], ratio["fast"]} <= comparison["ms"].keys()
    sizes = comparisons[-1]["bytes"]
    assert sizes[CIPHERTEXTS] == 2 * 1024 // 4
    assert sizes[CIPHERTEXTS] < sizes[MESSAGES] < sizes[PHE_JSON]


def test_the_tables_say_that_they_are_the_hosts_and_that_a_key_is_unsafe() -> None:
    result = compare("--degrees", 1)
    assert result.returncode == 0, result.stderr
    assert "host figures" in result.stdout
    assert "keys of 1024 bits are UNSAFE" in result.stdout
    assert "p10..p90" in result.stdout
    assert "…" not in result.stdout, "80 columns are enough for every figure"


def test_a_gate_that_falls_is_exit_code_1() -> None:
    result = gate("--json", "--libraries", "heu", "--require", "bytes=1e9")
    assert result.returncode == 1, result.stderr
    report = json.loads(result.stdout)
    gates = {verdict["name"]: verdict for verdict in report["gates"]}
    assert gates.keys() == GATES
    assert gates["bytes"]["limit"] == 1e9
    assert gates["bytes"]["fallen"]
    measured = {name for name, verdict in gates.items() if verdict["ratio"] is not None}
    if report["not_installed"]:
        assert report["not_installed"] == {"heu": "pip install sf-heu"}
        assert measured == GATES - {"reference-library"}
    else:
        assert measured == GATES


def test_gates_that_hold_are_exit_code_0() -> None:
    result = gate("--libraries", *(word for name in GATES for word in ("--require", f"{name}=0")))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "FAILED" not in result.stdout
    assert result.stdout.count("holds") == len(GATES) - 1
    assert result.stdout.count("not measured") == 1, "the reference library was left out"


@pytest.mark.parametrize(
    "arguments", [["--require", "speed=1"], ["--require", "bytes=fast"], ["--degrees", "1"]]
)
def test_what_a_gate_cannot_be_asked_is_exit_code_2(arguments: list[str]) -> None:
    result = gate(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""


# -- the parts -----------------------------------------------------------------------------------


def test_cases_are_interleaved_and_short_ones_run_more_often() -> None:
    turns: list[str] = []

    def case(name: str) -> TimedCase:
        return TimedCase(name, lambda: turns.append(name), lambda _: True)

    ms, checked = run_interleaved([case("a"), case("b")], Effort(0.0, 3))
    changes = [name for place, name in enumerate(turns) if turns[place - 1 : place] != [name]]
    assert changes == ["a", "b"] * 3
    assert checked == len(turns) > 6
    assert {name: len(times) for name, times in ms.items()} == {"a": 3, "b": 3}


def test_what_is_filled_before_is_filled_for_every_run() -> None:
    pool: list[int] = []
    case = TimedCase("taker", pool.pop, lambda taken: taken == 7, lambda: pool.append(7))
    _, checked = run_interleaved([case], ONE_PASS)
    assert checked > 1
    assert pool == []


def test_a_wrong_result_is_no_time() -> None:
    with pytest.raises(WrongResult, match="liar: the result differs") as caught:
        run_interleaved([TimedCase("liar", lambda: 4, lambda result: result == 5)], ONE_PASS)
    assert caught.value.exit_code == 5


def test_a_library_that_forgets_the_weight_is_found_out() -> None:
    class Forgetful(Phe):
        name = "forgetful"

        def answer(self, query: str, own: Sequence[int], weight: int) -> str:
            return super().answer(query, own, weight - weight + 1)

    material = KeyMaterial(1024)
    with pytest.raises(WrongResult, match="forgetful"):
        compare_exchanges(material, [Forgetful(material.keys)], 1, 1, ONE_PASS)


def test_ratios_are_of_the_same_pass() -> None:
    comparison = InterleavedComparison(
        kind="any",
        key_bits=2048,
        ms={"slow": [10.0, 40.0, 30.0], "fast": [1.0, 2.0, 1.0]},
        checked=6,
    )
    assert comparison.ratio("slow", "fast") == RatioSpread(20.0, 10.0, 12.0, 28.0)
