#!/bin/sh
# Let this device install its node from the boot partition, at every boot until it has succeeded.
#
# cloud-init runs this text early in every boot (bootcmd), before the boot partition is mounted.
# rpi-preseed runs it as a file (early). It writes two units and starts the timer. It needs nothing
# of the boot partition, and a second run changes nothing.
#
# The timer starts the service at once and then every minute. The service waits for the mount. It
# installs if a card is pending, and stops the timer when nothing is left to do. A partition that is
# mounted late, a power cut, or a failed attempt is therefore made up for in the next minute or at
# the next boot. After ten failed attempts in one boot, systemd waits for the next boot.
set -eu

units=${DESTDIR:-}/etc/systemd/system
mkdir -p "$units"

cat >"$units/cipherfleet-first-boot.service" <<'UNIT'
[Unit]
Description=Installation of the cipherfleet node from the boot partition
RequiresMountsFor=/boot/firmware
StartLimitIntervalSec=1d
StartLimitBurst=10

[Service]
Type=oneshot
ExecStartPre=mountpoint -q /boot/firmware
ExecStart=sh -c 'test ! -e /boot/firmware/cipherfleet/pending || exec sh /boot/firmware/cipherfleet/first-boot.sh'
ExecStartPost=systemctl stop cipherfleet-first-boot.timer
TimeoutStartSec=1h
UNIT

cat >"$units/cipherfleet-first-boot.timer" <<'UNIT'
[Unit]
Description=Attempts to install the cipherfleet node, until one has succeeded

[Timer]
OnActiveSec=1s
OnCalendar=minutely
AccuracySec=1s

[Install]
WantedBy=timers.target
UNIT

if [ -z "${DESTDIR:-}" ]; then
    systemctl daemon-reload
    systemctl --quiet enable cipherfleet-first-boot.timer
    systemctl start --no-block cipherfleet-first-boot.timer
fi
