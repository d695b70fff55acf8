"""The comparison with Flower, as far as it needs no flwr: files, counters, choice of methods."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest

from accuracy.flower import (
    APP,
    FLOWER_METHODS,
    MODULUS_BITS,
    FlowerRound,
    FlowerRun,
    FlowerTask,
    Sample,
    installed_version,
    masks_for,
    read_log,
    simulate_masked,
    write_app,
)
from accuracy.peers import peers_not_run
from accuracy.process_tree import cpu_seconds, descendants, end_all, parse_stat
from accuracy.relay import CountingRelay
from accuracy.scene import QuadraticProblem
from accuracy.with_phe import simulate_descent
from tests.support.paths import ROOT
from to_accuracy import METHODS, choose_methods

LOG = """\
{"round": 0, "model": [0.0, 0.0], "reply_bytes": 0, "at": 102.0}
{"round": 1, "model": [1.0, 0.0], "reply_bytes": 70, "at": 103.0}
{"round": 2, "model": [1.0, 1.0], "reply_bytes": 140, "at": 104.5}
"""
SAMPLES = [Sample(101.0, 1.0, 10), Sample(103.0, 2.0, 20), Sample(105.0, 3.0, 30)]


def small_problem() -> QuadraticProblem:
    """Return two nodes with the optimum (0.7, 0.7), which no quantiser hits."""
    hessians = np.array([[[1.0, 0.2], [0.2, 0.5]], [[0.8, 0.0], [0.0, 0.9]]])
    return QuadraticProblem(hessians, -0.7 * hessians.sum(axis=2), [[1], [0]])


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# -- the files of a run -------------------------------------------------------------------------


def test_a_round_has_the_figures_of_the_first_sample_at_its_end_or_later(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    run = FlowerRun(100.0, read_log(tmp_path / "log"), SAMPLES)
    deployed = run.course(np.array([1.0, 1.0]), is_relayed=True)
    assert deployed.errors == pytest.approx([1 / np.sqrt(2), 0.0])
    assert (deployed.wall_s, deployed.cpu_s) == ([3.0, 4.5], [2.0, 3.0])
    assert deployed.sent == [20.0, 30.0]
    assert run.course(np.array([1.0, 1.0]), is_relayed=False).sent == [70.0, 140.0]


def test_a_log_without_one_of_its_rounds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n".join(LOG.splitlines()[::2]))
    with pytest.raises(ValueError, match="must be 0, 1, 2"):
        read_log(tmp_path / "log")


@pytest.mark.parametrize(("is_masked", "client"), [(False, "client"), (True, "masked_client")])
def test_the_app_names_its_client_and_reads_its_task(
    tmp_path: Path, *, is_masked: bool, client: str
) -> None:
    problem = small_problem()
    task = FlowerTask(
        hessians=problem.hessians.tolist(),
        offsets=problem.offsets.tolist(),
        step=problem.best_step,
        rounds=3,
        masks=masks_for(2) if is_masked else None,
    )
    app = write_app(tmp_path, task)
    settings = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert settings["components"]["clientapp"] == f"flower_app:{client}"
    assert f"{client} = ClientApp(" in (app / "flower_app.py").read_text()
    read = msgspec.json.decode(Path(settings["config"]["task"]).read_bytes(), type=FlowerTask)
    assert read == task


def test_the_app_imports_flwr_numpy_and_the_standard_library_only() -> None:
    found = set()
    for node in ast.walk(ast.parse(APP.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name.split(".")[0] for each in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(cast("str", node.module).split(".")[0])
    assert found - set(sys.stdlib_module_names) == {"flwr", "numpy"}


def test_the_app_writes_the_fields_that_the_benchmark_reads() -> None:
    names = {field.name for field in msgspec.structs.fields(FlowerRound)}
    assert all(f'"{name}":' in APP.read_text() for name in names)


# -- SecAgg+ ------------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [2, 5, 6, 10, 16, 1000])
def test_the_sum_of_all_levels_is_below_the_modulus(clients: int) -> None:
    masks = masks_for(clients)
    assert 2 ** (MODULUS_BITS - 2) <= clients * masks.levels < 2**MODULUS_BITS


def test_the_finest_quantiser_passes_a_millionth_and_flowers_default_does_not() -> None:
    problem, masks = small_problem(), masks_for(2)
    descent = simulate_descent(problem)
    assert descent[-1] < 1e-9
    fine = simulate_masked(problem, masks, 200)
    coarse = simulate_masked(problem, msgspec.structs.replace(masks, levels=1 << 22), 200)
    assert max(fine[100:]) < 1e-6 < max(coarse[100:])


# -- counters -----------------------------------------------------------------------------------


def test_the_relay_counts_what_clients_send_and_not_what_they_receive() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"x" * 5000)

        threading.Thread(target=answer, daemon=True).start()
        with CountingRelay(server.getsockname()[1]) as relay:
            with socket.create_connection(("127.0.0.1", relay.port), timeout=30) as client:
                client.sendall(b"hello")
                received = b""
                while data := client.recv(10_000):
                    received += data
            assert (len(received), relay.sent) == (5000, 5)


def test_a_line_of_the_process_list_is_read_in_spite_of_brackets_in_a_name() -> None:
    fields = ["S", "7", *["0"] * 9, "1", "2", "3", "4", *["0"] * 4, "99", "0"]
    found = parse_stat(f"42 (a) b (c) {' '.join(fields)}")
    assert (found.pid, found.parent, found.cpu_ticks, found.started) == (42, 7, 10, 99)


def test_all_descendants_are_counted_and_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(600)"
    shell = f"'{sys.executable}' -I -S -c '{burn}' & wait"
    root = subprocess.Popen(["/bin/sh", "-c", shell])
    until = time.monotonic() + 60
    while cpu_seconds([root.pid]) < 0.25:
        assert time.monotonic() < until
        time.sleep(0.05)
    tree = descendants([root.pid])
    assert len(tree) == 2
    end_all([root])
    while any(each.pid == tree[1].pid for each in descendants([tree[1].pid])):
        assert time.monotonic() < until, "the grandchild goes on"
        time.sleep(0.05)


# -- the command line ---------------------------------------------------------------------------


def test_without_its_environment_no_method_of_flower_is_chosen() -> None:
    names = {each.name for each in FLOWER_METHODS}
    assert choose_methods(None, None) == [each.name for each in METHODS if each.name not in names]
    with pytest.raises(ValueError, match="--methods flower: needs --flower-python"):
        choose_methods(["exact", "flower"], None)


def test_an_environment_without_ray_runs_the_deployed_methods_only(tmp_path: Path) -> None:
    python = script(tmp_path / "python", 'case "$2" in *ray*) exit 1;; *) echo 1.42.0;; esac')
    assert installed_version(python, "flwr") == "1.42.0"
    assert choose_methods(None, python)[-2:] == ["flower", "flower-secagg"]
    with pytest.raises(ValueError, match=r"pip install 'flwr\[simulation\]=="):
        choose_methods(["flower-simulated"], python)


@pytest.mark.parametrize("name", ["no-such-file", "without-flwr"])
def test_an_environment_without_flwr_is_refused(tmp_path: Path, name: str) -> None:
    script(tmp_path / "without-flwr", "exit 1")
    with pytest.raises(ValueError, match=r"--flower-python: needs flwr .* pip install 'flwr=="):
        choose_methods(None, tmp_path / name)


def test_flower_without_its_environment_is_a_mistake_of_usage() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/to_accuracy.py"), "--methods", "flower"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs --flower-python PATH" in done.stderr


def test_what_has_run_is_not_listed_as_not_run() -> None:
    assert set(peers_not_run(["flower-simulated"])) == {"Flower with SecAgg+", "NVFlare"}
