"""What it costs to reach an accuracy: the parts of `benchmarks/to_accuracy.py`."""
