#!/bin/bash
# The inside of a second host: called by host.py as the first process of fresh namespaces, never by hand.
#
#   host.sh NAME ETC     ETC is a copy of /etc that this host may change
set -euo pipefail
name=$1 etc=$2

mount --bind "$etc" /etc
for place in /run /var/lib /var/cache /var/log; do mount -t tmpfs -o mode=755 host "$place"; done
mkdir -p /run/lock
hostname "$name"
ip link set lo up
printf 'ready\n'

# This shell takes in those whose parents have ended, until the bed ends or somebody ends this shell.
while :; do sleep 3600 & wait; done
