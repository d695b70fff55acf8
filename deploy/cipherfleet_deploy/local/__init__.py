"""Run a fleet as processes on this machine: `cipherfleet run` and `demo`."""
