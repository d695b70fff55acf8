"""The document of a measurement: its schema, the machine's state, validity, comparison."""
