"""Cards for devices: what is written to the boot partition, and the service that runs there."""
