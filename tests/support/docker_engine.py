"""A container engine for tests: the running one, or an own one that ends with the tests."""

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

from cipherfleet_deploy.containers.engine import ContainerEngine
from cipherfleet_deploy.containers.engine_errors import EngineUnreachable, engine_errors
from cipherfleet_deploy.containers.image import ImageOptions, build_image, make_base
from cipherfleet_node.errors import CipherfleetError, ConfigError
from tests.support.debian_archive import debian_archive

IMAGE = "cipherfleet:tested"
PUBLIC_BASE = "python:3.12-slim-bookworm"  # that of deploy/Dockerfile
READY_WITHIN_S = 60.0


@contextmanager
def running_engine() -> Iterator[ContainerEngine]:
    """An engine, also named in DOCKER_HOST; skips the test where none can be had."""
    try:
        with ContainerEngine() as engine:
            yield engine
            return
    except (EngineUnreachable, ConfigError) as error:
        reason = str(error)
    dockerd = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if dockerd is None or os.geteuid() != 0:
        pytest.skip(f"NO DOCKER ENGINE, NOT TESTED: {reason}")
    with _started(dockerd) as engine:
        yield engine


@contextmanager
def _started(dockerd: str) -> Iterator[ContainerEngine]:
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


def _awaited(process: subprocess.Popen[bytes], log: Path) -> ContainerEngine:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            return ContainerEngine()
        except EngineUnreachable:
            words = log.read_text(errors="replace").strip().splitlines()[-1:]
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"DOCKERD DOES NOT START HERE, NOT TESTED: {words}")
        time.sleep(0.2)


def built_image(engine: ContainerEngine, folder: Path) -> str:
    """The image of this very source. Other tests share the archive in *folder*."""
    offline = shutil.which("mmdebstrap") is not None
    try:
        base = _made(engine, folder) if offline else _pulled(engine)
    except CipherfleetError as error:
        pytest.skip(f"NO BASE IMAGE CAN BE HAD, NOT TESTED: {error}")
    build_image(engine, ImageOptions(IMAGE, base, offline), _tell_nobody)
    return IMAGE


def _made(engine: ContainerEngine, folder: Path) -> str:
    return make_base(engine, _tell_nobody, archive=debian_archive(folder))


def _pulled(engine: ContainerEngine) -> str:
    with engine_errors("the base image"):
        engine.client.images.pull(PUBLIC_BASE)
    return PUBLIC_BASE


def _tell_nobody(_text: str) -> None:
    pass
