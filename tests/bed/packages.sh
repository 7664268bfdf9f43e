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
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

say() { printf 'packages: %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo DEBIAN_FRONTEND=noninteractive "$@"; fi
}

# As root, or by a sudo that asks nothing, or one that can ask on a terminal.
may_install() {
    [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }
}

# apt without a word unless it fails; a failure may only mean that the lists are old. Where there are none it has no use to try.
apt_quietly() {
    local log
    log=$(mktemp)
    if compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null && as_root apt-get -qq "$@" </dev/null >"$log" 2>&1; then rm -f "$log"; return 0; fi
    say "refreshing the package lists"
    as_root apt-get -qq update </dev/null >>"$log" 2>&1 || true
    if as_root apt-get -qq "$@" </dev/null >"$log" 2>&1; then rm -f "$log"; return 0; fi
    cat "$log" >&2; rm -f "$log"
    return 1
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
    may_install || { say "missing: ${want[*]} (needs root or sudo: apt-get install ${want[*]})"; return 1; }
    say "installing ${want[*]}"
    apt_quietly install -y --no-install-recommends "${want[@]}"
}

# The stamp names the packages, the parts that a layer has, and the state of the machine's own packages: a layer holds
# what the machine lacks.
layer() {
    local dir stamp deb part
    dir=$(realpath --canonicalize-missing -- "$1"); shift
    stamp="$* (usr etc var) $(sha256sum </var/lib/dpkg/status)"
    [ "$(cat "$dir/.stamp" 2>/dev/null || true)" != "$stamp" ] || return 0

    say "unpacking into $dir: $*"
    rm -rf --one-file-system "$dir"
    mkdir -p "$dir/debs/partial" "$dir/unpacked" "$dir/usr"
    apt_quietly install -y --download-only --no-install-recommends --reinstall \
        -o Dir::Cache::archives="$dir/debs" -o APT::Sandbox::User=root "$@"
    for deb in "$dir"/debs/*.deb; do dpkg-deb --extract "$deb" "$dir/unpacked"; done
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
