"""Reports of measurements: terminal tables, charts, an HTML page."""
