"""From one fleet.yaml to a folder for every node: topology, keys, settings, advice."""
