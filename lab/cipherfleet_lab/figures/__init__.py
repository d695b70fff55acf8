"""The studies of the lab: figures and tables that one command reproduces.

Each study is a module of its name; it is imported only when it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .study import Study

# The studies in the order of the page that collects them. Each is in the module of its name.
STUDIES = (
    "articles",
    "consensus",
    "five-nodes",
    "baselines",
    "attenuation",
    "sensitivity",
    "metrics",
    "key-size",
    "logistic",
    "not-convex",
    "streaming",
    "differential-privacy",
    "attacks",
)


def load_study(name: str) -> Study:
    """Import and return the study of this *name*, one of STUDIES."""
    module = import_module(f".{name.replace('-', '_')}", __name__)
    study: Study = module.STUDY
    return study
