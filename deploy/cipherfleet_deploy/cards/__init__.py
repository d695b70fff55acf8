"""Cards for devices: the files on the boot partition, and the systemd unit of the node."""
