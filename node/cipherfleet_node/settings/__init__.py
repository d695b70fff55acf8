"""node.yaml and the types that it shares with fleet.yaml; every error of a file with its place."""
