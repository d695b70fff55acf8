#!/bin/sh
# cloud-init runs this script at the first boot of a card that `cipherfleet provision seed` wrote.
#
# The script compares the files on the card with their checksums and installs them. Then it removes
# the bundle from the boot partition, because the bundle may hold private keys. It writes its
# progress to first-boot.log, in the same folder.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
log=$here/first-boot.log

run() {
    cd "$here"
    sha256sum --quiet -c SHA256SUMS || {
        echo "cipherfleet: the files on the card are damaged; write the card again" >&2
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
