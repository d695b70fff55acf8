"""The daemon of one node: everything that runs on a device. See node/README.md for the map."""

__version__ = "0.1.0"
