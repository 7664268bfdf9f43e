#!/bin/bash
# The inside of a bed: called by enter.sh as the first process of fresh namespaces, never by hand.
# Everything is mounted before anything is written, so a step that fails leaves nothing behind.
set -euo pipefail
umask 022

# 1. A private view. /etc is copied (3 MB) rather than overlaid: that works on every file system, and in a bed inside a bed.
mount -t tmpfs -o mode=755 bed "$BED_PRIVATE"
mkdir -m 1777 "$BED_PRIVATE/tmp"
cp -a /etc "$BED_PRIVATE/etc"
mount --bind "$BED_PRIVATE/etc" /etc
mount -t tmpfs -o mode=755 bed /run
if [ -n "$BED_VAR" ]; then
    mkdir "$BED_PRIVATE/var" /run/machine-var
    [ -z "$BED_LAYER" ] || cp -a "$BED_LAYER/var/." "$BED_PRIVATE/var/"
    mkdir -p "$BED_PRIVATE"/var/{backups,cache,lib,local,log,mail,opt,spool,tmp}
    chmod 1777 "$BED_PRIVATE/var/tmp"
    ln -sfn /run "$BED_PRIVATE/var/run"
    ln -sfn /run/lock "$BED_PRIVATE/var/lock"
    # A project that lies somewhere below /var keeps its place.
    mount --rbind /var /run/machine-var
    mount --bind "$BED_PRIVATE/var" /var
    case $BED_ROOT in
        /var/*) mkdir -p "$BED_ROOT"; mount --rbind "/run/machine-var/${BED_ROOT#/var/}" "$BED_ROOT" ;;
    esac
    umount --lazy /run/machine-var
    rmdir /run/machine-var
fi
mount -t tmpfs -o mode=755 bed /var/spool
mount -t tmpfs -o mode=1777 bed /var/mail
if [ -n "$BED_SPOOL" ]; then mount --bind "$BED_SPOOL" /var/spool; chmod 755 /var/spool; fi
# What others left in /tmp is no part of a test, unless the project itself lies there.
case $BED_ROOT:$BED_SPOOL:$BED_LAYER in
    /tmp/*|*:/tmp/*) ;;
    *) mount -t tmpfs -o mode=1777 bed /tmp ;;
esac
if [ -n "$BED_LAYER" ]; then
    mount -t overlay -o "ro,lowerdir=$BED_LAYER/usr:/usr" bed /usr
    cp -a --no-clobber "$BED_LAYER/etc/." /etc/
fi
# The relay's own directory in /var/lib is thrown away as well; everything else there stays in sight.
if [ -z "$BED_VAR" ]; then
    mkdir "$BED_PRIVATE/lib" /run/machine-lib
    mount --rbind /var/lib /run/machine-lib
    for entry in /run/machine-lib/*; do
        place=$BED_PRIVATE/lib/${entry##*/}
        case $entry in
            */pamrelay) ;;
            *) if [ -d "$entry" ]; then mkdir "$place"; else touch "$place"; fi; mount --rbind "$entry" "$place" ;;
        esac
    done
    mount --rbind "$BED_PRIVATE/lib" /var/lib
    umount --lazy /run/machine-lib
    rmdir /run/machine-lib
fi
mkdir -p /run/lock /run/pamrelay /etc/pamrelay
mkdir -p -m 700 /var/spool/pamrelay
export TMPDIR=$BED_PRIVATE/tmp LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
PATH=$PATH:/usr/sbin:/sbin

# 2. The users: those of the relay, and people. No home, no mail box, no login record: useradd would make them outside /etc.
system_user() { id "$1" >/dev/null 2>&1 || useradd --system --user-group --no-log-init --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$1"; }
person() { # NAME PASSWORD [chpasswd options: another hash than yescrypt]
    local name=$1 password=$2; shift 2
    id "$name" >/dev/null 2>&1 || useradd --no-log-init --no-create-home --home-dir /nonexistent --shell /bin/sh "$name"
    printf '%s:%s\n' "$name" "$password" | chpasswd "$@"
}

rm -f /etc/nologin
for name in pamrelay pamrelay-keys pamrelay-queue; do system_user "$name"; done
chown pamrelay-queue:pamrelay-queue /var/spool/pamrelay
if [ -n "$BED_LAYER" ]; then for name in postfix postdrop; do system_user "$name"; done; fi

person demo 'demo password' -c YESCRYPT
if [ "${BED_PEOPLE:-}" = all ]; then
    person ada 'Correct horse 1' -c YESCRYPT
    person grace 'pässwörd €' -c YESCRYPT
    person quick 'quick password' -c SHA512 -s 1000
    person gone 'gone password' -c SHA512 -s 1000
    chage -E 2020-01-01 gone
    person aged 'aged password' -c SHA512 -s 1000
    chage -d 0 aged
    system_user low # with a number below min_uid
    person low 'low password' -c SHA512 -s 1000
fi

# 3. The PAM service, as Debian's package installs it.
install -m 644 "$BED_ROOT/pam.d/debian/smtp" /etc/pam.d/smtp

# 4. Loopback, where the network is our own, and the names used by the tests.
/usr/bin/python3 "$BED_ROOT/tests/bed/loopback.py"
printf '127.0.0.1 localhost relay.test smarthost.test\n::1 localhost\n' >/etc/hosts

# 5. Not exec: this shell is the first process here, and takes in those whose parents have ended.
status=0
"$@" || status=$?
exit "$status"
