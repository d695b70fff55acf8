"""The command that installs a missing optional library.

cipherfleet is on no package index. The command therefore names the folder or the wheel that this
installation came from, which the installer has recorded (PEP 610).
"""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any
from urllib.parse import unquote, urlsplit

NAME = "cipherfleet"
EXTRAS = ("metrics", "operator", "page", "lab", "dev")  # a smaller one before those that contain it
_OF_EXTRA = re.compile(r"""([A-Za-z0-9._-]+).*extra == ["'](\w+)["']""")


def missing_library(library: str) -> str:
    """Return an error text: the command needs *library* (an import), and how to install it."""
    wanted = library.partition(".")[0]
    remedy = install_command(extra_of(wanted, _requirements()))
    return f"this command needs {wanted}, which is not installed; install it with: {remedy}"


def install_command(extra: str = "operator") -> str:
    """Return the command that adds *extra* to this installation, or repeats it if *extra* is ""."""
    return pip_command(_origin(), extra)


def extra_of(library: str, requirements: list[str]) -> str:
    """Return the smallest extra whose *requirements* name *library*, or "" if none does."""
    found = [match for line in requirements if (match := _OF_EXTRA.match(line))]
    extras = {match[2] for match in found if match[1].lower() == library.lower()}
    return next((extra for extra in EXTRAS if extra in extras), "")


def pip_command(origin: dict[str, Any], extra: str) -> str:
    """Return the command for *origin*, the content of direct_url.json, which may be empty."""
    suffix = f"[{extra}]" if extra else ""
    url = urlsplit(origin.get("url", ""))
    if url.scheme != "file":
        return f"pip install 'PATH{suffix}', where PATH is the source folder or the wheel of {NAME}"
    editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    return f"pip install {editable}{shlex.quote(unquote(url.path) + suffix)}"


def _requirements() -> list[str]:
    try:
        return list(distribution(NAME).requires or ())
    except PackageNotFoundError:
        return []


def _origin() -> dict[str, Any]:
    try:
        text = distribution(NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        text = None
    return json.loads(text) if text else {}
