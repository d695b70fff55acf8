"""What is measured and how: crypto cases, rounds, calibration, parameter studies."""
