"""The operator's command line, and fleets on one machine."""
