"""Measurements as documents: schema, state of the machine, validity, comparison."""
