"""Where the agreed answer goes: a file, a program, the owner's MQTT broker, or a plug-in.

`load(folder).predict({"pm10": 41, "rh": 60})` computes with the answer of the node in *folder*.
"""

from __future__ import annotations

from .answer import Answer
from .file import load

__all__ = ["Answer", "load"]
