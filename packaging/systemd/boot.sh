#!/usr/bin/env bash
# Boots a small Debian with the package in a container of systemd-nspawn and runs inside.sh in it: packaging/systemd/boot.sh PACKAGE
# FOLDER. The Debian in FOLDER is made once, from the machine's own release. Needs root, debootstrap and systemd-container.
set -euo pipefail
package=$1 folder=$2
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
debian=$folder/debian
mkdir -p "$folder"
if [ ! -e "$folder/made" ]; then
    rm -rf "$debian"
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,fuse3,curl "$release" "$debian" http://deb.debian.org/debian \
        >"$folder/debootstrap.log" 2>&1 || { tail -n 5 "$folder/debootstrap.log"; exit 1; }
    touch "$folder/made"
fi
rm -rf "$debian/var/lib/wizefs" "$debian/root/said"
install -m 644 "$package" "$debian/root/wizefs.deb"
install -m 755 "$here/inside.sh" "$debian/root/inside.sh"
# When everything is up it runs, and then the container ends.
cat >"$debian/etc/systemd/system/inside.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/root/inside.sh
ExecStopPost=/bin/systemctl --no-block poweroff
TimeoutStartSec=300
UNIT
mkdir -p "$debian/etc/systemd/system/default.target.wants"
ln -sf ../inside.service "$debian/etc/systemd/system/default.target.wants/inside.service"
timeout 400 systemd-nspawn -D "$debian" --register=no --keep-unit --bind=/dev/fuse --property='DeviceAllow=/dev/fuse rwm' --boot \
    </dev/null >"$folder/boot.log" 2>&1 || true
cat "$debian/root/said"
[ "$(tail -n 1 "$debian/root/said")" = "all as it should be" ]
