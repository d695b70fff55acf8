"""The graph of a fleet: given, or generated."""
