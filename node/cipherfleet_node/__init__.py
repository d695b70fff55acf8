"""Everything that runs on the device of one node. node/README.md describes the modules."""

__version__ = "0.1.0"
