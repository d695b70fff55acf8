"""The operator's tools: the command line, fleets on one machine, and cards for devices."""
