#!/usr/bin/env bash
# What boot.sh runs in the container, as root of a machine with the package: the units and fstab, from installing to removing.
set -uo pipefail
exec >/root/said 2>&1
export WIZEFS_ROOT=/var/lib/wizefs
docs=/var/lib/wizefs/mnt/docs

# The last command of each step must succeed; the first that does not ends it all.
step() {
    local what=$1
    shift
    local said
    if said=$("$@" 2>&1); then echo "ok    $what"; else
        printf 'FAILED  %s: %s\n%s\n' "$what" "$*" "$said"
        journalctl --no-pager -o cat -u wizefs-node -u 'wizefs@*'
        exit 1
    fi
}
until_true() {
    local tries
    for tries in $(seq 600); do
        "$@" && return 0
        sleep 0.2
    done
    return 1
}
is() { [ "$(systemctl show -p "$2" --value "$1")" = "$3" ]; }
mounted() { findmnt -n -t fuse.wizefs "$1" >/dev/null; }
unmounted() { ! mounted "$1"; }
pid() { systemctl show -p MainPID --value wizefs-node; }

step "the package is installed" dpkg -i /root/wizefs.deb
step "the node starts, and serves when systemctl returns" systemctl enable --now wizefs-node
step "a bucket is made" wizefs create docs
step "it is mounted" systemctl enable --now wizefs@docs
step "where it should be" mounted "$docs"
step "files are kept" sh -c "cp /etc/os-release $docs/release && cmp /etc/os-release $docs/release && wizefs sync"
step "another user reads" su nobody -s /bin/sh -c "cat $docs/release"
step "and writes nothing" su nobody -s /bin/sh -c "! touch $docs/x 2>/dev/null"
step "a bucket whose name has a dash" wizefs create my-docs
step "is mounted by its name" systemctl start wizefs@my-docs
step "where it should be" mounted /var/lib/wizefs/mnt/my-docs
step "and taken away" systemctl stop wizefs@my-docs
step "REST answers" curl -sS --fail http://127.0.0.1:13000/v1/buckets/docs/files/release

step "the node is restarted" systemctl restart wizefs-node
step "with its buckets" until_true mounted "$docs"

exec 9>"$docs/open"
echo written >&9
before=$(pid)
kill -9 "$before"
exec 9>&-
step "a killed node comes back" until_true sh -c "[ \"\$(systemctl show -p MainPID --value wizefs-node)\" != $before ] && systemctl is-active -q wizefs-node"
step "with its buckets" until_true mounted "$docs"
step "and what it had not recorded" sh -c "grep -q written $docs/open && wizefs log docs | grep -q recovered"
step "the chain is whole" wizefs integrity

step "a bucket in use is taken away" sh -c "cd $docs && systemctl stop wizefs@docs"
step "and is no longer there" unmounted "$docs"

mkdir -p /etc/systemd/system/wizefs@docs.service.d /srv/docs
printf '[Service]\nEnvironment="WIZEFS_MOUNT=/srv/docs --allow-other --durability close"\n' >/etc/systemd/system/wizefs@docs.service.d/where.conf
step "systemd reads a drop-in" systemctl daemon-reload
step "a bucket is mounted elsewhere" systemctl start wizefs@docs
step "there it is" mounted /srv/docs

mkdir -p /srv/second
echo 'second /srv/second wizefs root=/var/lib/wizefs,allow_other,nofail,_netdev 0 0' >>/etc/fstab
step "a second bucket is made" wizefs create second
step "systemd reads fstab" systemctl daemon-reload
step "a line of fstab is a unit" systemctl start srv-second.mount
step "which can be written" sh -c "echo hello >/srv/second/a && grep -q hello /srv/second/a"
step "it is unmounted" umount /srv/second
step "and mounted by mount(8)" mount /srv/second
step "there it is again" mounted /srv/second
step "it is stopped" systemctl stop srv-second.mount

before=$(pid)
kill -STOP "$before"
step "a node that stands still is replaced" until_true sh -c "[ \"\$(systemctl show -p MainPID --value wizefs-node)\" != $before ] && systemctl is-active -q wizefs-node"
step "with its buckets" until_true mounted /srv/docs

step "the node is stopped" systemctl stop wizefs-node
step "which is no failure" is wizefs-node Result success
step "nothing is mounted" unmounted /srv/docs
step "everything it kept is as recorded" wizefs verify docs
step "the package is removed" dpkg -r wizefs
step "the keys are still there" test -d /var/lib/wizefs/wallets
rm -rf /etc/systemd/system/wizefs@docs.service.d
sed -i '\|^second |d' /etc/fstab
echo "all as it should be"
