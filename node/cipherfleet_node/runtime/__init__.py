"""The daemon around the core: MQTT, files, sensors' threads, systemd, membership, enrolment."""
