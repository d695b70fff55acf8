"""fleet.yaml: its types, its checks, and the fleet that it describes."""
