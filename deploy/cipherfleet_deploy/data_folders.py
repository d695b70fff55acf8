"""Folders of data: inside an installed wheel, or beside the source."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def example_folder(name: str) -> Path:
    """Return the folder of the example *name*."""
    installed = _PACKAGE / "examples" / name
    return installed if installed.is_dir() else _PACKAGE.parents[1] / "examples" / name


def devices_folder() -> Path:
    """Return the folder of scripts and templates for devices."""
    installed = _PACKAGE / "devices"
    return installed if installed.is_dir() else _PACKAGE.parent / "devices"
