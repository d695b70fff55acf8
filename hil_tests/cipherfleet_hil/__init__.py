"""Latency of real rounds, read from the spans that nodes write."""
