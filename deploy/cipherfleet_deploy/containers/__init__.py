"""Run a fleet in containers on this machine, or write a Compose or Swarm file for it."""
