"""The protocol and its mathematics, without I/O: no clock, no randomness, no file, no network."""
