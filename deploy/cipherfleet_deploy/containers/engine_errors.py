"""The address of the container engine, and errors of the Docker library as errors of ours."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import requests
from docker.errors import APIError, DockerException

from cipherfleet_node.errors import CipherfleetError, one_line

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
TIMEOUT_S = 120  # an engine that creates a hundred containers on two cores answers slowly


class EngineUnreachable(CipherfleetError):
    """No container engine answers at its address."""

    exit_code: ClassVar[int] = 4


class EngineRefused(CipherfleetError):
    """The engine refused a request. The text contains the engine's own message."""


@contextmanager
def engine_errors(what: str) -> Iterator[None]:
    """Turn errors of the Docker library into EngineRefused and EngineUnreachable.

    The text begins with *what*, the thing that the request was about.
    """
    try:
        yield
    except APIError as error:
        raise EngineRefused(f"{what}: the engine reports: {_explanation(error)}") from None
    except (DockerException, requests.RequestException) as error:
        raise _unreachable(what, type(error).__name__) from None


def engine_address() -> str:
    """Return the address that DOCKER_HOST names, else DEFAULT_ADDRESS."""
    return os.environ.get("DOCKER_HOST") or DEFAULT_ADDRESS


def _unreachable(what: str, reason: str) -> EngineUnreachable:
    return EngineUnreachable(
        f"{what}: no Docker engine answers at {engine_address()} ({reason})",
        remedy=(
            "start it (systemctl start docker), join the group docker, set DOCKER_HOST, or use "
            "--backend process"
        ),
    )


def _explanation(error: APIError) -> str:
    return one_line(str(error.explanation or error))[:300]


def check_socket() -> None:
    """Raise EngineUnreachable with the system's reason, which the library's error hides."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT_S)
        try:
            sock.connect(engine_address().removeprefix("unix://"))
        except OSError as error:
            raise _unreachable("containers", error.strerror or str(error)) from None
