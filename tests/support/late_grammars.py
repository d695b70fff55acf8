"""jsonschema without the forty grammars that it compiles whenever it is imported.

They check the formats iri and iri-reference, which takes each process two seconds at its start.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

LIBRARY = "rfc3987_syntax"


def compile_grammars_late() -> None:
    """Let the first text of such a format load the library; call it before jsonschema's import."""
    if LIBRARY not in sys.modules and find_spec(LIBRARY) is not None:
        late = sys.modules[LIBRARY] = ModuleType(LIBRARY)
        vars(late)["is_valid_syntax"] = _is_valid_syntax


def _is_valid_syntax(rule: str, text: str) -> bool:
    if not hasattr(sys.modules[LIBRARY], "__path__"):
        del sys.modules[LIBRARY]
    return bool(import_module(LIBRARY).is_valid_syntax(rule, text))
