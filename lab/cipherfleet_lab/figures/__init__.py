"""What the lab finds, as figures and tables that one command makes again.

A module for each study; nothing of them is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .study import Study

# The studies in the order of the page that collects them, and their modules.
MODULES: Mapping[str, str] = {
    "articles": "articles",
    "consensus": "consensus",
    "five-nodes": "five",
    "baselines": "compared",
    "attenuation": "attenuation",
    "sensitivity": "sensitivity",
    "key-size": "room",
    "logistic": "classes",
    "not-convex": "not_convex",
    "differential-privacy": "private_noise",
    "attacks": "attacks",
}


def study_of(name: str) -> Study:
    """The study of this *name*, one of MODULES."""
    study: Study = import_module(f".{MODULES[name]}", __name__).STUDY
    return study
