"""`cipherfleet check`: findings about a fleet and a forecast, before it runs."""
