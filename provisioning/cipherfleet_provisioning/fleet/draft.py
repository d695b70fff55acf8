"""fleet.yaml while it is checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cipherfleet_node.sensors import CsvTable
from cipherfleet_node.settings.yaml_document import Unchecked
from cipherfleet_provisioning.topology.graph import Graph

from .file import FleetFile, Overrides
from .members import Member


@dataclass
class FleetDraft(Unchecked[FleetFile]):
    """The sections of the file with the values of the command line, and the errors found so far.

    Rules add the parts of the fleet from *members* on, which later rules need.
    """

    overrides: Overrides = field(default_factory=Overrides)
    endless: bool = True  # False: the file must set algorithm.rounds
    members: tuple[Member, ...] = ()
    graph: Graph | None = None
    tables: dict[Path, CsvTable | None] = field(default_factory=dict)  # None: it has errors

    @property
    def folder(self) -> Path:
        """The folder of the file; relative paths start here."""
        return self.document.file.parent
