"""Read and check fleet.yaml, and make a folder with keys and settings for every node.

Later changes are made here, too: keys that devices claim, new nodes and edges, new certificates
and revocations.
"""
