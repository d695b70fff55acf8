"""Everything that runs on the device of one node. node/README.md describes the modules."""

__version__ = "0.1.0"
# The day of this version, in UTC: no correct clock is before it. See runtime/epochs.py.
RELEASED = "2026-11-26"
