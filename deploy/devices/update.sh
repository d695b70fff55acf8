#!/bin/sh
# Run another version of cipherfleet on a device; keys, settings and state stay as they are.
#
#   update.sh FOLDER      take the wheels in FOLDER; go back by itself if the node does not start
#   update.sh --rollback  run the version before again
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

# The service says itself when it is ready (Type=notify): until then, or its failure, this waits.
comes_up() {
    systemctl restart "$unit" || return 1
    sleep "$SETTLED_S"
    case $(systemctl is-active "$unit" || true) in
    active) return 0 ;;
    inactive) [ "$(systemctl show -P Result "$unit")" = success ] ;; # its rounds are done
    *) return 1 ;;
    esac
}

case ${1:-} in
--rollback) exec sh "$here/install.sh" --rollback ;;
'' | -*) fail "say where the wheels are: $0 FOLDER, or --rollback" 2 ;;
esac
[ -L "$opt/current" ] || fail "nothing is installed here; use install.sh"
before=$(readlink "$opt/current")
sh "$here/install.sh" --no-start --wheels "$1" || {
    code=$?
    if [ "$(readlink "$opt/current")" != "$before" ]; then
        sh "$here/install.sh" --rollback
    fi
    fail "the update failed, ${before#versions/} is still the one to run" "$code"
}
if [ "$(readlink "$opt/current")" = "$before" ]; then
    exit 0
fi
if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ] && [ -f "/etc/systemd/system/$unit" ]; then
    comes_up || {
        sh "$here/install.sh" --rollback
        fail "the node does not start with the new version: gone back to ${before#versions/}; \
see: journalctl -u cipherfleet-node"
    }
fi
