#!/bin/sh
# Run another version of cipherfleet on a device. Keys, settings and state stay as they are.
#
#   update.sh FOLDER      install the wheels in FOLDER; return to the old version if the node does
#                         not start
#   update.sh --rollback  run the previous version again
set -eu

here=$(cd "$(dirname "$0")" && pwd)
DESTDIR=${DESTDIR:-}
SETTLED_S=${SETTLED_S:-15}
opt=$DESTDIR/opt/cipherfleet
unit=cipherfleet-node.service

fail() {
    echo "cipherfleet: $1" >&2
    exit "${2:-1}"
}

# Restart the service. `systemctl restart` waits until the service is ready (Type=notify) or fails.
restart_service() {
    systemctl restart "$unit" || return 1
    sleep "$SETTLED_S"
    case $(systemctl is-active "$unit" || true) in
    active) return 0 ;;
    inactive) [ "$(systemctl show -P Result "$unit")" = success ] ;; # the node has finished
    *) return 1 ;;
    esac
}

case ${1:-} in
--rollback) exec sh "$here/install.sh" --rollback ;;
'' | -*) fail "give the folder of wheels, or --rollback: $0 FOLDER" 2 ;;
esac
[ -L "$opt/current" ] || fail "nothing is installed here; use install.sh"
before=$(readlink "$opt/current")
sh "$here/install.sh" --no-start --wheels "$1" || {
    code=$?
    if [ "$(readlink "$opt/current")" != "$before" ]; then
        sh "$here/install.sh" --rollback
    fi
    fail "the update failed, ${before#versions/} is still the version to run" "$code"
}
if [ "$(readlink "$opt/current")" = "$before" ]; then
    exit 0
fi
if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ] && [ -f "/etc/systemd/system/$unit" ]; then
    restart_service || {
        sh "$here/install.sh" --rollback
        fail "the node does not start with the new version, so ${before#versions/} runs again; \
see: journalctl -u cipherfleet-node"
    }
fi
