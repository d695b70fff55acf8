"""Fleets of processes on this machine: `cipherfleet run` and `demo`."""
