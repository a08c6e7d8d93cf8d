#!/usr/bin/env bash
# The Debian package from a program that is built: packaging/deb.sh PROGRAM FOLDER, prints the path of the package.
# ./start.sh deb builds the program first.
set -euo pipefail
program=$(realpath "$1")
out=$(realpath "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
architecture=$(dpkg --print-architecture)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
doc="$tree/usr/share/doc/wizefs"

install -D -m 755 "$program" "$tree/usr/bin/wizefs"
strip --strip-unneeded "$tree/usr/bin/wizefs"
mkdir -p "$tree/usr/sbin" "$tree/DEBIAN"
# mount(8) looks into /sbin, which is /usr/sbin.
ln -s ../bin/wizefs "$tree/usr/sbin/mount.wizefs"
ln -s ../bin/wizefs "$tree/usr/sbin/mount.fuse.wizefs"
install -D -m 644 -t "$tree/usr/lib/systemd/system" packaging/systemd/*.service
install -D -m 644 packaging/deb/copyright "$doc/copyright"
install -D -m 644 -t "$doc" README.md CHANGELOG.md docs/*.md
printf 'wizefs (%s) unstable; urgency=medium\n\n  * CHANGELOG.md says what is in it.\n\n -- The wizefs authors <wizefs@wizefs.invalid>  %s\n' \
    "$version" "$(date -R)" | gzip -9 -n >"$doc/changelog.gz"
chmod 644 "$doc/changelog.gz"

# Manual pages and completions, as the program writes them itself, and the page of the helper.
install -D -m 644 packaging/deb/mount.wizefs.8 "$tree/usr/share/man/man8/mount.wizefs.8"
ln -s mount.wizefs.8.gz "$tree/usr/share/man/man8/mount.fuse.wizefs.8.gz"
if "$program" man --help >/dev/null 2>&1; then
    mkdir -p "$tree/usr/share/man/man1"
    "$program" man "$tree/usr/share/man/man1" >/dev/null
fi
find "$tree/usr/share/man" -type f -exec gzip -9 -n {} +
# Called by its name: the scripts call the program as it was called, and here it is not where it will be.
complete() {
    PATH="$tree/usr/bin:$PATH" wizefs completions "$1" >"$tree/complete" 2>/dev/null || return 0
    # zsh reads the file as the body of a function when Tab is pressed for the first time, which is to be answered as well.
    [ "$1" != zsh ] || echo '[ "${funcstack[1]}" != _wizefs ] || _clap_dynamic_completer_wizefs "$@"' >>"$tree/complete"
    install -D -m 644 "$tree/complete" "$tree/usr/share/$2"
    rm -f "$tree/complete"
}
complete bash bash-completion/completions/wizefs
complete zsh zsh/vendor-completions/_wizefs
complete fish fish/vendor_completions.d/wizefs.fish

# The libraries that the program asks for, with the versions of the machine it was built on.
depends=$(cd "$tree" && mkdir debian && printf 'Source: wizefs\n\nPackage: wizefs\nArchitecture: any\n' >debian/control &&
    dpkg-shlibdeps -O --ignore-missing-info usr/bin/wizefs 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
rm -rf "$tree/debian"
size=$(du -sk --exclude=DEBIAN "$tree" | cut -f1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@SIZE@/$size/" -e "s/@DEPENDS@/$depends/" \
    packaging/deb/control >"$tree/DEBIAN/control"
install -m 755 packaging/deb/postinst packaging/deb/prerm packaging/deb/postrm "$tree/DEBIAN"
(cd "$tree" && find usr -type f -exec md5sum {} + >DEBIAN/md5sums && chmod 644 DEBIAN/md5sums DEBIAN/control)
package="$out/wizefs_${version}_$architecture.deb"
dpkg-deb --root-owner-group -Zxz -z2 --build "$tree" "$package" >/dev/null
printf '%s\n' "$package"
