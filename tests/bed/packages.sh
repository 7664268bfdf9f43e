#!/bin/bash
# Debian packages, in two ways.
#
#   packages.sh host NAME...         install what is missing on this machine (root or sudo)
#   packages.sh layer DIR NAME...    unpack NAME and what it needs into DIR, and leave the machine alone
#
# Building needs the first. The second is for mail programs (Postfix, saslauthd, swaks, msmtp): installed, they would
# change the machine's mail set-up, so the bed lays DIR over its own private view of /usr instead (inside.sh).
# No maintainer script runs: the users, directories and databases that one would make are made inside the bed.
# A second call with nothing to do asks no server and takes milliseconds.
#
# Other package managers, other checkouts and a second make in this one may be at work at the same time: a lock that one of them
# holds is waited for, for PACKAGES_PATIENCE seconds (30 minutes unless set). When packages cannot be had, the status is not 0
# and the one line on standard output names the cause; everything else goes to standard error.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

patience=${PACKAGES_PATIENCE:-1800}
# Only root can open a file that root makes here, so nobody else can hold the lock or put a link in its place.
apt_lock=/run/pamrelay-packages.lock

say() { printf 'packages: %s\n' "$*" >&2; }
fail() { printf '%s\n' "$*"; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; fi
}

# As root, or by a sudo that asks nothing, or one that can ask on a terminal.
may_install() {
    [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }
}

# Makes the lock file, and runs the rest under it. --close: a service that a package starts must not keep the lock.
locked='patience=$1 file=$2; shift 2; (umask 077; : >>"$file"); exec flock --close --timeout "$patience" --conflict-exit-code 75 "$file" "$@"'

# One apt-get of ours at a time. apt itself waits for dpkg's lock (DPkg::Lock::Timeout), but gives up at once on the locks of the
# lists and of the archives. So apt is started again while a lock is held, and what it waits for is said once.
apt() { # LOG ARGUMENT...
    local log=$1 deadline=$((SECONDS + patience)) slice=$((patience < 10 ? patience : 10)) held said='' status; shift
    while true; do
        status=0
        as_root sh -c "$locked" flock "$slice" "$apt_lock" apt-get -qq -o "DPkg::Lock::Timeout=$slice" "$@" \
            </dev/null >"$log" 2>&1 || status=$?
        [ "$status" != 0 ] || return 0
        [ "$status" != 75 ] || printf 'E: Could not get lock %s. Another run of packages.sh holds it\n' "$apt_lock" >>"$log"
        held=$(grep -m 1 -E '^E: (Could not get lock|Unable to (acquire|lock))' "$log" || true)
        [ -n "$held" ] && [ "$SECONDS" -lt "$deadline" ] || return 1
        [ -n "$said" ] || say "waiting: ${held#E: }"
        said=yes
        sleep 1
    done
}

# The first complaint in apt's words is the cause; those below it follow from it. apt-get update only warns of what it cannot fetch.
complaint() { # LOG
    local line
    line=$(grep -m 1 '^E: ' "$1" || grep -m 1 '^W: ' "$1" || true)
    printf '%s' "${line#[EW]: }"
}

# apt without a word unless it fails; a failure may only mean that the lists are old. Where there are none it has no use to try.
apt_quietly() {
    local log status=0 stale=''
    log=$(mktemp)
    if ! { compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null && apt "$log" "$@"; }; then
        say "refreshing the package lists"
        apt "$log" update || cat "$log" >&2
        stale=$(complaint "$log")
        apt "$log" "$@" || status=$?
    fi
    if [ "$status" != 0 ]; then
        cat "$log" >&2
        cause=$(complaint "$log")
        cause=${cause:-apt-get says nothing}${stale:+; the package lists could not be refreshed: $stale}
    fi
    rm -f "$log"
    return "$status"
}

missing() {
    local name
    for name; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || printf '%s\n' "$name"
    done
}

host() {
    local want
    mapfile -t want < <(missing "$@")
    [ ${#want[@]} -gt 0 ] || return 0
    may_install || fail "missing: ${want[*]} (needs root or sudo: apt-get install ${want[*]})"
    say "installing ${want[*]}"
    apt_quietly install -y --no-install-recommends "${want[@]}" || fail "cannot install ${want[*]}: $cause"
}

# The stamp names the packages, the parts that a layer has, and the state of the machine's own packages: a layer holds
# what the machine lacks. One at a time unpacks a layer, and only while no bed uses it: a bed shares the lock (enter.sh).
layer() {
    local dir stamp deb part lock
    dir=$(realpath --canonicalize-missing -- "$1"); shift
    stamp="$* (usr etc var) $(sha256sum </var/lib/dpkg/status)"
    [ "$(cat "$dir/.stamp" 2>/dev/null || true)" != "$stamp" ] || return 0

    mkdir -p "$(dirname "$dir")"
    exec {lock}>>"$dir.lock"
    if ! flock --nonblock "$lock"; then
        say "waiting for another run that uses or unpacks $dir"
        flock --timeout "$patience" "$lock" || fail "another run has used $dir for $patience seconds"
    fi
    [ "$(cat "$dir/.stamp" 2>/dev/null || true)" != "$stamp" ] || return 0
    say "unpacking into $dir: $*"
    rm -rf --one-file-system "$dir"
    mkdir -p "$dir/debs/partial" "$dir/unpacked" "$dir/usr"
    apt_quietly install -y --download-only --no-install-recommends --reinstall \
        -o Dir::Cache::archives="$dir/debs" -o APT::Sandbox::User=root "$@" {lock}>&- || fail "$cause"
    for deb in "$dir"/debs/*.deb; do
        dpkg-deb --extract "$deb" "$dir/unpacked" || fail "cannot unpack ${deb##*/}, see above"
    done
    # One /usr: packages of this release may still say /lib where they mean /usr/lib.
    for part in bin sbin lib lib64; do
        [ -d "$dir/unpacked/$part" ] || continue
        mkdir -p "$dir/unpacked/usr/$part"
        cp -a "$dir/unpacked/$part/." "$dir/unpacked/usr/$part/"
    done
    rmdir "$dir/usr"; mv "$dir/unpacked/usr" "$dir/usr"
    for part in etc var; do
        mkdir -p "$dir/unpacked/$part"
        mv "$dir/unpacked/$part" "$dir/$part"
    done
    rm -rf "$dir/debs" "$dir/unpacked"
    chmod 755 "$dir" "$dir/usr" "$dir/etc" "$dir/var"
    printf '%s' "$stamp" >"$dir/.stamp"
}

case ${1:-} in
    host) shift; host "$@" ;;
    layer) shift; layer "$@" ;;
    *) say "usage: packages.sh host NAME... | layer DIR NAME..."; exit 2 ;;
esac
