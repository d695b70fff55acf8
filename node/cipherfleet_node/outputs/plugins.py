"""Outputs that other packages bring: classes under the entry point group `cipherfleet.outputs`.

`answer.plugins: {influx: {url: "http://127.0.0.1:8086"}}` opens the class that a package names
`influx` in that group. It is called with the node's folder and with the options by name, and has
the two methods of `publisher.Output`:

    class Influx:
        def __init__(self, folder: Path, *, url: str) -> None: ...
        def publish(self, answer: Answer) -> None: ...
        def close(self) -> None: ...

A plug-in runs with the rights of the node: its package must be as trustworthy as cipherfleet.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from .publisher import Output, OutputFailed

GROUP = "cipherfleet.outputs"


def open_plugin(name: str, folder: Path, options: Mapping[str, str | int | float | bool]) -> Output:
    """Open the plug-in *name*. Raises OutputFailed if no installed package brings it."""
    found = entry_points(group=GROUP, name=name)
    if not found:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        raise OutputFailed(f"no installed package has it in {GROUP}; there are: {known}")
    return cast("Output", next(iter(found)).load()(folder, **options))
