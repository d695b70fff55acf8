"""Measurement targets: this machine, boards over SSH, limited containers; one holder at a time."""
