#!/bin/sh
# Install cipherfleet on a device, without a network. A second run changes nothing.
#
#   install.sh [--wheels FOLDER] [--bundle NODE.tar.gz] [--replace] [--no-start]
#   install.sh --rollback
#
# --wheels    folder with wheels of cipherfleet, of its dependencies and of pip; run this version
# --bundle    archive of the node from provisioning; an installed node keeps its keys and state
# --replace   replace the settings and keys on this device by those of the bundle, keep the state
# --no-start  neither start nor restart the service
# --rollback  run the previous version again
#
# Programs go to /opt/cipherfleet. Keys that the operator made go to /etc/cipherfleet, which only
# root can read; systemd passes them to the service. Everything else of the node goes to
# /var/lib/cipherfleet. DESTDIR is a prefix of all three paths, for tests without root; no service
# is started then.
set -eu
umask 022

DESTDIR=${DESTDIR:-}
PYTHON=${PYTHON:-python3}
opt=$DESTDIR/opt/cipherfleet
etc=$DESTDIR/etc/cipherfleet
var=$DESTDIR/var/lib/cipherfleet
unit=cipherfleet-node.service
secrets="keys/paillier.json keys/identity.pem keys/seal.pem tls/node.key"

fail() {
    echo "cipherfleet: $1" >&2
    exit "${2:-1}"
}

say() { echo "cipherfleet: $1"; }

# Replace the link $1 atomically by one that points to $2.
point() {
    ln -sfn "$2" "$1.fresh"
    mv -Tf "$1.fresh" "$1"
}

target_of() { if [ -L "$1" ]; then readlink "$1"; fi; }

# -- the programs ---------------------------------------------------------------------------------

the_wheel() {
    name=$2
    set -- "$1"/"$2"-*.whl
    [ $# -eq 1 ] || fail "$wheels holds $# wheels of $name, must hold one: $*"
    if [ -f "$1" ]; then echo "$1"; fi
}

install_version() {
    wheels=$(cd "$1" 2>/dev/null && pwd) || fail "--wheels is $1, must be a folder"
    wheel=$(the_wheel "$wheels" cipherfleet)
    [ -n "$wheel" ] || fail "$wheels holds no wheel of cipherfleet; make one with: pip wheel"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$PYTHON is missing or older than 3.11; use Debian 12 or newer"
    number=${wheel##*/cipherfleet-}
    number=${number%%-*}
    # The version has a digest of all wheels: the same wheels are not installed twice.
    sums=$(cd "$wheels" && sha256sum ./*.whl)
    version=$number-$(echo "$sums" | sha256sum | cut -c1-12)
    mkdir -p "$opt/versions"
    # An installed version that no longer starts is made again: an upgrade of the system may have
    # replaced the Python that it was made with.
    if [ ! -f "$opt/versions/$version/complete" ] ||
        ! starts "$opt/versions/$version" 2>/dev/null; then
        make_environment "$opt/versions/$version"
        say "installed version $version"
        changed=yes
    fi
    now=$(target_of "$opt/current")
    if [ "$now" != "versions/$version" ]; then
        if [ -n "$now" ]; then point "$opt/previous" "$now"; fi
        point "$opt/current" "versions/$version"
        say "version $version is now the version to run"
        changed=yes
    fi
}

starts() { "$1/bin/cipherfleet-node" --version >/dev/null; }

# A virtual environment cannot be moved, so it is made in its final place. The file `complete` is
# written last.
make_environment() {
    making=$1
    trap 'rm -rf "$making"' EXIT
    trap 'exit 1' HUP INT TERM
    rm -rf "$making" # left by an interrupted run
    pip=$(the_wheel "$wheels" pip)
    if [ -n "$pip" ]; then
        "$PYTHON" -m venv --without-pip "$making"
        pip="$pip/pip"
    else
        "$PYTHON" -m venv "$making" >/dev/null ||
            fail "the Python of this system has no pip; put a wheel of pip into $wheels"
        pip="$making/bin/pip"
    fi
    "$making/bin/python" "$pip" --isolated install --quiet --no-index --find-links "$wheels" \
        --disable-pip-version-check --root-user-action ignore --no-warn-script-location "$wheel" ||
        fail "the wheels in $wheels do not fit this machine ($(uname -m), $("$PYTHON" -V)); \
download matching ones: pip download --require-hashes -r locked/device.txt --only-binary :all: \
--platform ... --python-version ..."
    starts "$making" ||
        fail "the version in $wheels does not start; nothing was changed"
    sync -f "$making"
    : >"$making/complete"
    sync -f "$making"
    trap - EXIT HUP INT TERM
}

roll_back() {
    before=$(target_of "$opt/previous")
    { [ -n "$before" ] && [ -d "$opt/$before" ]; } ||
        fail "$opt/previous: there is no previous version to return to"
    point "$opt/previous" "$(target_of "$opt/current")"
    point "$opt/current" "$before"
    say "version ${before#versions/} is now the version to run"
    changed=yes
}

# Keep only the current version and the previous one.
remove_old_versions() {
    for place in "$opt"/versions/*; do
        case versions/${place##*/} in
        "$(target_of "$opt/current")" | "$(target_of "$opt/previous")") ;;
        *) rm -rf "$place" ;;
        esac
    done
}

# -- the node -------------------------------------------------------------------------------------

install_bundle() {
    [ -f "$1" ] || fail "--bundle is $1, must be a file"
    [ -x "$opt/current/bin/cipherfleet-node" ] ||
        fail "$opt/current: no version is installed; give --wheels, too"
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    other=$(cat "$etc/node" 2>/dev/null || true)
    node=$(tar -tzf "$1" | sed -n 's|^\([A-Za-z0-9][A-Za-z0-9_-]*\)/node\.yaml$|\1|p')
    [ -n "$node" ] || fail "$1: holds no NODE/node.yaml; use the node's archive from provisioning"
    if [ -n "$other" ] && [ "$other" != "$node" ] && [ "$replace" = no ]; then
        fail "this device is $other, the bundle is for $node; use --replace to make it $node" 6
    fi
    if [ "$(cat "$etc/$node/bundle" 2>/dev/null || true)" = "$digest" ]; then
        return 0
    fi
    if [ -d "$var/$node" ] && [ -f "$etc/$node/bundle" ] && [ "$replace" = no ]; then
        fail "$node is installed with another bundle; use --replace to install this one (the state \
is kept)"
    fi
    unpack "$1"
    changed=yes
}

unpack() {
    mkdir -p "$etc" "$var"
    chmod 700 "$etc"
    fresh=$var/.fresh
    rm -rf "$fresh"
    mkdir "$fresh"
    chmod 700 "$fresh"
    tar -xzf "$1" -C "$fresh" --no-same-owner
    # Check the settings only: the clock may be wrong, and the sensor may not be plugged in yet.
    unit_of "$fresh/$node" >/dev/null || { rm -rf "$fresh"; exit 3; }
    if [ -n "$other" ] && [ "$other" != "$node" ]; then rm -rf "${etc:?}/$other"; fi
    mkdir -p "$etc/$node" "$var/$node"
    chmod 700 "$etc/$node" "$var/$node"
    # Keys that the node has made itself belong to the old bundle.
    for name in keys keys.next keys.old tls.next tls.old membership neighbours tls token; do
        rm -rf "${var:?}/$node/$name"
    done
    for name in $secrets; do
        kept=$etc/$node/${name##*/}
        rm -f "$kept"
        if [ -f "$fresh/$node/$name" ]; then
            mv "$fresh/$node/$name" "$kept"
            chmod 600 "$kept"
        fi
    done
    rmdir "$fresh/$node/keys" 2>/dev/null || true
    cp -a "$fresh/$node/." "$var/$node/"
    rm -rf "$fresh"
    echo "$node" >"$etc/node"
    echo "$digest" >"$etc/$node/.bundle.fresh"
    sync -f "$etc"
    sync -f "$var"
    # Last: an interrupted run is repeated. A file that is only written may be empty after a power
    # cut, and would count as another bundle.
    mv -f "$etc/$node/.bundle.fresh" "$etc/$node/bundle"
    say "installed the bundle of $node"
}

unit_of() {
    "$opt/current/bin/python" -m cipherfleet_deploy.cards.systemd_unit "$1" "$DESTDIR/"
}

# -- the service ----------------------------------------------------------------------------------

# Each version contains these scripts: $opt/update.sh is that of the current version.
scripts() {
    "$opt/current/bin/python" -c \
        'from cipherfleet_deploy.data_folders import devices_folder; print(devices_folder())'
}

# This check runs before anything is changed.
check_machine() {
    for name in systemctl systemd-sysusers systemd-tmpfiles; do
        command -v "$name" >/dev/null ||
            fail "this machine has no systemd ($name is not found), nothing was changed; install \
it, or unpack the bundle and start it with your service manager: cipherfleet-node run FOLDER"
    done
    [ "$(id -u)" = 0 ] || fail "must run as root: sudo $0"
}

install_service() {
    scripts=$(scripts)
    for name in install.sh update.sh; do
        [ "$(target_of "$opt/$name")" = "$scripts/$name" ] || point "$opt/$name" "$scripts/$name"
    done
    node=$(cat "$etc/node" 2>/dev/null || true)
    if [ -z "$node" ]; then
        say "no node is installed yet; give --bundle NODE.tar.gz"
        return 0
    fi
    units=$DESTDIR/etc/systemd/system
    put "$scripts/sysusers.conf" "$DESTDIR/etc/sysusers.d/cipherfleet.conf"
    put "$scripts/tmpfiles.conf" "$DESTDIR/etc/tmpfiles.d/cipherfleet.conf"
    mkdir -p "$units"
    unit_of "$var/$node" >"$units/.$unit.fresh"
    put "$units/.$unit.fresh" "$units/$unit"
    rm "$units/.$unit.fresh"
    if [ -n "$DESTDIR" ]; then
        return 0
    fi
    systemd-sysusers /etc/sysusers.d/cipherfleet.conf
    systemd-tmpfiles --create /etc/tmpfiles.d/cipherfleet.conf
    chown -R cipherfleet:cipherfleet "$var/$node"
    systemctl --quiet enable "$unit"
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        if [ "$start" = yes ]; then start_service; fi
    fi
}

put() {
    if ! cmp -s "$1" "$2"; then
        mkdir -p "$(dirname "$2")"
        cp "$1" "$2"
        chmod 644 "$2"
        changed=yes
    fi
}

start_service() {
    if [ "$changed" = yes ]; then
        systemctl restart --no-block "$unit"
    else
        systemctl start --no-block "$unit"
    fi
    say "started; see: systemctl status cipherfleet-node"
}

# -- the command line -----------------------------------------------------------------------------

main() {
    wheels='' bundle='' replace=no rollback=no changed=no start=yes
    while [ $# -gt 0 ]; do
        case $1 in
        --wheels | --bundle)
            [ $# -gt 1 ] || fail "$1 needs a value" 2
            if [ "$1" = --wheels ]; then wheels=$2; else bundle=$2; fi
            shift
            ;;
        --replace) replace=yes ;;
        --no-start) start=no ;;
        --rollback) rollback=yes ;;
        -h | --help)
            sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"
            exit 0
            ;;
        *) fail "$1 is not an option; see $0 --help" 2 ;;
        esac
        shift
    done
    if [ -z "$DESTDIR" ]; then check_machine; fi
    if [ "$rollback" = yes ]; then roll_back; fi
    if [ -n "$wheels" ]; then install_version "$wheels"; fi
    if [ -n "$bundle" ]; then install_bundle "$bundle"; fi
    [ -d "$opt/versions" ] || fail "nothing is installed; give --wheels FOLDER"
    remove_old_versions
    install_service
}

main "$@"
