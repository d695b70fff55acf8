"""Machines to measure on: this one, boards over SSH, limited containers; one user at a time."""
