"""`cipherfleet check`: findings and forecast of a fleet, before it runs."""
