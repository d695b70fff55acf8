#!/bin/sh
# Install the node of the card that `cipherfleet provision seed` wrote. The service
# cipherfleet-first-boot runs this script while the file `pending` is on the card.
#
# The script compares the files on the card with their checksums and installs them. Then it removes
# the bundle from the boot partition, because the bundle may hold private keys, and `pending` last.
# It can be interrupted at any point and run again. The log of the latest attempt is
# first-boot.log, in the same folder.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
log=$here/first-boot.log

run() {
    cd "$here"
    # A power cut after the installation leaves nothing to do but to clean up.
    if [ -f "$here/installed" ]; then return 0; fi
    sha256sum --quiet -c SHA256SUMS || {
        echo "cipherfleet: the files on the card are damaged; write the card again" >&2
        return 1
    }
    set -- --bundle "$here/bundle.tar.gz"
    if [ -f "$here/replace" ]; then set -- "$@" --replace; fi
    if [ -d "$here/wheels" ]; then set -- --wheels "$here/wheels" "$@"; fi
    sh "$here/install.sh" "$@" || return $?
    sync # the unit and its links are on another file system than the mark
    : >"$here/installed"
    sync -f "$here/installed"
}

echo "first boot" >"$log"
if run >>"$log" 2>&1; then
    rm -f "$here/bundle.tar.gz" "$here/replace"
    sync -f "$here"
    echo "done" >>"$log"
    sync -f "$log"
    rm -f "$here/pending"
    sync -f "$here"
    cat "$log"
else
    code=$?
    echo "failed with exit code $code; the next attempt is in a minute, or at the next boot" >>"$log"
    cat "$log" >&2
    sync -f "$log"
    exit "$code"
fi
