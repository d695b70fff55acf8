"""`cipherfleet-node doctor`: checks of a node's folder, its machine and its broker."""
