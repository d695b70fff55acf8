"""A container engine for tests: the one that is there, or one of our own that ends with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cipherfleet_deploy.fleets.engine import Engine, EngineUnreachable
from cipherfleet_deploy.fleets.image import ImageOptions, build_image
from cipherfleet_node.errors import CipherfleetError

IMAGE = "cipherfleet:tested"
READY_WITHIN_S = 60.0


@contextmanager
def running_engine() -> Iterator[Engine]:
    """An engine, also named in DOCKER_HOST; skips the test where none can be had."""
    try:
        with Engine() as engine:
            yield engine
            return
    except EngineUnreachable as error:
        reason = str(error)
    dockerd = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if dockerd is None or os.geteuid() != 0:
        pytest.skip(f"NO DOCKER ENGINE, NOT TESTED: {reason}")
    with _started(dockerd) as engine:
        yield engine


@contextmanager
def _started(dockerd: str) -> Iterator[Engine]:
    """Our own engine, in a folder of its own, beside whatever else the machine has."""
    folder = Path(tempfile.mkdtemp(prefix="cipherfleet-engine-"))
    named = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = f"unix://{folder}/socket"
    places = [f"--{name}={folder / name}" for name in ("data-root", "exec-root", "pidfile")]
    try:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [dockerd, f"--host={os.environ['DOCKER_HOST']}", *places],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            with _awaited(process, folder / "log") as engine:
                yield engine
        finally:
            process.terminate()
            process.wait(60)
    finally:
        if named is None:
            del os.environ["DOCKER_HOST"]
        else:
            os.environ["DOCKER_HOST"] = named
        shutil.rmtree(folder, ignore_errors=True)


def _awaited(process: subprocess.Popen[bytes], log: Path) -> Engine:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            return Engine()
        except EngineUnreachable:
            words = log.read_text(errors="replace").strip().splitlines()[-1:]
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"DOCKERD DOES NOT START HERE, NOT TESTED: {words}")
        time.sleep(0.2)


def built_image(engine: Engine) -> str:
    """The image of this very source."""
    offline = shutil.which("mmdebstrap") is not None
    options = ImageOptions(IMAGE, offline=offline)
    try:
        build_image(engine, options, lambda _text: None)
    except CipherfleetError as error:
        if offline:
            raise
        pytest.skip(f"NO IMAGE WITHOUT REGISTRY OR MMDEBSTRAP, NOT TESTED: {error}")
    return IMAGE
