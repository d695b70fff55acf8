"""Run studies, write their pages, collect their numbers."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cipherfleet_node.errors import ConfigError

from . import STUDIES, load_study
from .pages import write_index, write_study
from .study import StudyEffort

Progress = Callable[[str], None]


class FiguresResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `cipherfleet figures`: `--json` prints these keys in this order."""

    out: str
    files: list[str]
    figures: dict[str, dict[str, Any]]  # by study: its `finding`, and numbers under keys of its own


def make(out: Path, names: Sequence[str], effort: StudyEffort, progress: Progress) -> FiguresResult:
    """Write the studies *names* into *out*; return the files and all numbers.

    *progress* receives the name of each study before it runs. Raises ConfigError for a folder that
    cannot be written.
    """
    files: list[Path] = []
    figures = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            progress(name)
            study = load_study(name)
            result = study.run(effort)
            files += write_study(out, study, result, _command(out, name, effort))
            figures[name] = {"finding": result.finding, **_plain(result.numbers)}
        studies = [load_study(name) for name in STUDIES]
        files.append(write_index(out, studies, _figures_command(out)))
    except OSError as error:
        raise ConfigError(
            f"{error.filename or out}: cannot be written ({error.strerror})",
            remedy="give --out a folder of your own",
        ) from None
    return FiguresResult(out=str(out), files=[str(file) for file in files], figures=figures)


def _figures_command(out: Path) -> str:
    return f"cipherfleet figures --out {shlex.quote(str(out))}"


def _command(out: Path, name: str, effort: StudyEffort) -> str:
    """Return the command that reproduces one page."""
    options = [f"--only {name}", *(["--quick"] if effort.quick else [])]
    options += [f"--seed {effort.seed}"] if effort.seed != StudyEffort().seed else []
    return f"{_figures_command(out)} {' '.join(options)}"


def _plain(value: Any) -> Any:
    """Convert to JSON types: lists, and None for numbers that are not finite."""
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | np.ndarray():
            return [_plain(item) for item in value]
        case np.generic():
            return _plain(value.item())
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
