"""Privacy audit of a fleet: who learns what, with findings."""
