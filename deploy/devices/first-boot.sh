#!/bin/sh
# What cloud-init runs at the first boot of a card that `cipherfleet provision seed` has written.
#
# It checks that the card holds what was written, installs it, and then takes the bundle, which may
# hold private keys, off the boot partition. first-boot.log beside it says how it went.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
log=$here/first-boot.log

run() {
    cd "$here"
    sha256sum --quiet -c SHA256SUMS || {
        echo "cipherfleet: the card does not hold what was written: seed it again" >&2
        return 1
    }
    set -- --bundle "$here/bundle.tar.gz"
    if [ -f "$here/replace" ]; then set -- "$@" --replace; fi
    if [ -d "$here/wheels" ]; then set -- --wheels "$here/wheels" "$@"; fi
    sh "$here/install.sh" "$@"
}

echo "first boot" >"$log"
if run >>"$log" 2>&1; then
    rm -f "$here/bundle.tar.gz" "$here/replace"
    echo "done" >>"$log"
    cat "$log"
    sync -f "$log"
else
    code=$?
    echo "failed with exit code $code" >>"$log"
    cat "$log" >&2
    sync -f "$log"
    exit "$code"
fi
