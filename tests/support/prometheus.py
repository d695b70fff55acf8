"""Prometheus and its promtool: those that are installed, or Debian's, unpacked and not installed.

The package starts a service when it is installed. So it is only downloaded, once (19 MB), and its
two programs are kept beside the kernels of the guests.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cipherfleet_broker.die_with_parent import die_with_parent

from .guest_image import cache_folder, locked

DOWNLOAD_S = 120.0
CONFIGURATION = """\
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: nodes
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def find_program(name: str) -> Path:
    """Return the program *name* of Prometheus; skips the test where it cannot be had."""
    if (found := shutil.which(name)) is not None:
        return Path(found)
    cache = cache_folder()
    place = cache / "prometheus"
    with locked(cache, "prometheus"):
        if not place.is_dir():
            _download(cache, place)
    return place / "usr/bin" / name


def _download(cache: Path, place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as name:
        fresh = Path(name)
        try:
            _run(["apt-get", "download", "prometheus"], fresh)
            (archive,) = fresh.glob("*.deb")
            _run(["dpkg", "-x", str(archive), "unpacked"], fresh)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            pytest.skip(
                "promtool and prometheus are not installed, and apt does not have their package "
                f"(apt-get install prometheus): {type(error).__name__}"
            )
        for other in (fresh / "unpacked").iterdir():
            if other.name != "usr":
                shutil.rmtree(other)
        (fresh / "unpacked").rename(place)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=DOWNLOAD_S)


def complaints_about(page: bytes) -> str:
    """Return what `promtool check metrics` has to say about *page*; empty if nothing."""
    command = [str(find_program("promtool")), "check", "metrics"]
    done = subprocess.run(command, input=page, capture_output=True, check=False, timeout=60)
    said = (done.stdout + done.stderr).decode()
    return said or ("" if done.returncode == 0 else f"exit code {done.returncode}")


class Prometheus:
    """A server that reads one page every second; *url* is that of its own interface."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, text: str) -> list[dict[str, Any]]:
        """Return the results of the query *text*; none while the server is not ready."""
        asked = f"{self._url}/api/v1/query?query={urllib.parse.quote(text)}"
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return found
        except OSError:
            return []

    def wait(self, text: str, within_s: float = 120.0) -> list[dict[str, Any]]:
        """Return the results of the query *text* as soon as there are some."""
        pause = threading.Event()
        for _ in range(int(within_s / 0.2)):
            if found := self.query(text):
                return found
            pause.wait(0.2)
        raise AssertionError(f"Prometheus has no result for {text} within {within_s:g} s")


@contextmanager
def running_prometheus(folder: Path, page_port: int, own_port: int) -> Iterator[Prometheus]:
    """Run a server with its data in *folder*, which reads the page on *page_port*."""
    program = find_program("prometheus")
    file = folder / "prometheus.yml"
    file.write_text(CONFIGURATION.format(port=page_port))
    address = f"127.0.0.1:{own_port}"
    command = [
        str(program),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    server = subprocess.Popen(die_with_parent(command), stderr=sys.stderr)
    try:
        yield Prometheus(f"http://{address}")
    finally:
        server.terminate()
        server.wait(30)
