"""Run studies, write their pages, collect their numbers."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cipherfleet_node.errors import ConfigError

from . import STUDIES, study_of
from .pages import write_index, write_study
from .study import Effort

Progress = Callable[[str], None]


def make(out: Path, names: Sequence[str], effort: Effort, progress: Progress) -> dict[str, Any]:
    """Write the studies *names* into *out*; what was written, and all numbers.

    *progress* is told the name of each study before it runs. Raises ConfigError for a folder that
    cannot be written.
    """
    told: dict[str, Any] = {"out": str(out), "files": [], "figures": {}}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in names:
            progress(name)
            study = study_of(name)
            result = study.run(effort)
            told["files"] += write_study(out, study, result, _command(out, name, effort))
            told["figures"][name] = {"finding": result.finding, **_plain(result.numbers)}
        told["files"].append(write_index(out, [study_of(name) for name in STUDIES], _into(out)))
    except OSError as error:
        raise ConfigError(
            f"{error.filename or out}: cannot be written ({error.strerror}); give --out a folder "
            "of your own"
        ) from None
    told["files"] = [str(file) for file in told["files"]]
    return told


def _into(out: Path) -> str:
    return f"cipherfleet figures --out {shlex.quote(str(out))}"


def _command(out: Path, name: str, effort: Effort) -> str:
    """What makes one page again."""
    options = [f"--only {name}", *(["--quick"] if effort.quick else [])]
    options += [f"--seed {effort.seed}"] if effort.seed != Effort().seed else []
    return f"{_into(out)} {' '.join(options)}"


def _plain(value: Any) -> Any:
    """As JSON has it: lists, and None for what is not finite."""
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
