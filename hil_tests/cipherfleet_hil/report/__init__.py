"""Measurements for readers: tables, charts, one HTML page."""
