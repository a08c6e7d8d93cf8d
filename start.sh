#!/usr/bin/env bash
# Builds wizefs and runs its main job here: ./start.sh
#   ./start.sh          builds, creates and mounts the bucket `docs`, says where it is
#   ./start.sh test     every check there is, as CI runs them
#   ./start.sh bench    a quick round of each benchmark
#   ./start.sh figures  the ledger's figures in README.md: a million transactions, and 100,000 files through a mount; some minutes
#   ./start.sh soak     an hour of load, fsx and kills, and the largest sizes of other tests; WIZEFS_SOAK_MINUTES says how long
#   ./start.sh deb      builds the Debian package, and says where it is
#   ./start.sh systemd  boots a Debian with the package in a container, and tries its units and fstab; some minutes
#   ./start.sh docker   builds the container and runs the node in it
# May be run again at any time. Installs what is missing through apt when it may, and says what is missing when not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/wizefs-target}"
wizefs="$CARGO_TARGET_DIR/release/wizefs"
rust_needed=1.95

say() { printf '%s\n' "$*"; }
die() { printf 'start.sh: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

# RocksDB's bindings are generated with libclang, which has no program to ask for.
has_libclang() {
    local found
    found=$(compgen -G "${LIBCLANG_PATH:-/usr/lib/llvm-*/lib}/libclang*.so*" || compgen -G '/usr/lib/*/libclang*.so*' || true)
    [ -n "$found" ] && has clang
}

# The packages that are missing, of those the given job needs.
missing_packages() {
    has fusermount3 || echo fuse3
    has g++ || echo g++
    has cc || echo gcc
    has make || echo make
    has_libclang || echo clang libclang-dev
    [ "$1" = test ] || return 0
    has git || echo git
    has python3 || echo python3
    python3 -c 'import cryptography' 2>/dev/null || /usr/bin/python3 -c 'import cryptography' 2>/dev/null || echo python3-cryptography
    python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
    has cadaver || echo cadaver
    has curl || echo curl
    has openssl || echo openssl
    has rsync || echo rsync
    has bindfs || echo bindfs
    has gocryptfs || echo gocryptfs
    has sqlite3 || echo sqlite3
    has strace || echo strace
    has zip || echo zip
    has unzip || echo unzip
    has 7z || echo p7zip-full
    has bsdtar || echo libarchive-tools
    has umount || echo mount
    has setfacl || echo acl
    has mkfs.xfs || echo xfsprogs
    has mkfs.btrfs || echo btrfs-progs
    # pjdfstest is linked with it.
    [ -e /usr/include/sys/acl.h ] || echo libacl1-dev
    has findmnt || echo util-linux
    python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

install_missing() {
    local packages as_root
    packages=$(missing_packages "$1" | tr '\n' ' ')
    [ -z "$packages" ] && return 0
    has apt-get || die "these are missing, and there is no apt-get to install them: $packages"
    if [ "$(id -u)" = 0 ]; then
        as_root=()
    elif has sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        as_root=(sudo)
    else
        die "these are missing; as root: apt-get install -y $packages"
    fi
    say "installing: $packages"
    "${as_root[@]}" apt-get update -q
    # shellcheck disable=SC2086 # one word for each package
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages
}

find_rust() {
    has cargo || PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    has cargo || die "Rust $rust_needed or newer is missing: https://rustup.rs tells how to install it"
    local version
    version=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$rust_needed" "$version" | sort -V | head -n 1)" = "$rust_needed" ] ||
        die "Rust $version is too old, $rust_needed or newer is needed: rustup update stable"
}

build() {
    [ -x "$wizefs" ] || say "building; the first time this takes about 15 minutes on two cores, most of it for RocksDB"
    cargo build --release --locked
}

# A value of `wizefs status --json`, which is one line without spaces between its marks.
status_field() { "$wizefs" status --json "${@:2}" | sed -n "s/.*\"$1\":\"\\([^\"]*\\)\".*/\\1/p"; }

answers() {
    local host="${1%:*}" port="${1##*:}" line
    exec 3<>"/dev/tcp/$host/$port" || return 1
    printf 'GET /healthz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$1" >&3
    IFS= read -r line <&3
    exec 3>&-
    case "$line" in *" 200 "*) return 0 ;; *) return 1 ;; esac
}

up() {
    install_missing build
    find_rust
    [ -r /dev/fuse ] && [ -w /dev/fuse ] || die "/dev/fuse is missing or closed to $(id -un): modprobe fuse, or in a container --device /dev/fuse"
    build
    local root folder rest grpc
    root="${WIZEFS_ROOT:-$HOME/.local/share/wize/fs}"
    folder="$root/mnt/docs"
    [ -e "$root/buckets/docs/wizefs.conf" ] || "$wizefs" create docs --quiet
    mountpoint -q "$folder" 2>/dev/null || "$wizefs" mount docs --quiet
    rest=$(status_field rest)
    grpc=$(status_field grpc)
    say ""
    say "folder   $folder"
    if [ -n "$rest" ] && answers "$rest"; then
        say "REST     http://$rest/healthz answers"
    else
        say "REST     off"
    fi
    say "gRPC     ${grpc:-off}"
    say "program  $wizefs"
    say ""
    say "try:     cp README.md $folder/"
    say "         $wizefs sync && $wizefs log docs"
    say "         $wizefs verify docs"
    say "to end:  $wizefs unmount docs"
}

failed=()
step() {
    local name="$1"
    shift
    printf '\n== %s\n' "$name"
    local start=$SECONDS
    if "$@"; then
        say "== $name: ok, $((SECONDS - start)) s"
    else
        say "== $name: FAILED, $((SECONDS - start)) s"
        failed+=("$name")
    fi
}

# Processes of this build and mounts of wizefs, one line each.
left_behind() {
    local exe
    for exe in /proc/[0-9]*/exe; do
        case "$(readlink "$exe" 2>/dev/null)" in
        "$CARGO_TARGET_DIR"/*) echo "process ${exe//[!0-9]/}" ;;
        esac
    done
    awk '$3 == "fuse.wizefs" { print "mount", $2 }' /proc/self/mounts
}

nothing_left_behind() {
    local new
    new=$(comm -13 <(sort <<<"$1") <(left_behind | sort))
    [ -z "$new" ] || { say "left behind:" "$new"; return 1; }
}

# What others wrote to find faults in file systems, for the tests to run. The versions are fixed: what they ask must not change by itself.
install_suites() {
    local suite
    for suite in pjdfstest@0.2.2 fsx@0.3.2; do
        [ -x "$CARGO_TARGET_DIR/tools/bin/${suite%@*}" ] ||
            cargo install --quiet --locked --root "$CARGO_TARGET_DIR/tools" --target-dir "$CARGO_TARGET_DIR/tools/build" "$suite" ||
            return 1
    done
}

# What asks the node everything its OpenAPI document offers.
install_schemathesis() {
    local folder="$CARGO_TARGET_DIR/tools/schemathesis"
    [ ! -x "$folder/bin/schemathesis" ] || return 0
    if ! python3 -m venv "$folder" || ! "$folder/bin/pip" install -q schemathesis==4.32.5; then
        say "SKIPPED: schemathesis cannot be installed: python3-venv or the package registry is missing"
        rm -rf "$folder"
    fi
}

# Clients of others for what the node serves, in an environment of their own. The versions are fixed.
install_clients() {
    local python="$CARGO_TARGET_DIR/tools/python"
    "$python/bin/python3" -c 'import grpc_reflection' 2>/dev/null && return 0
    # Debian has the module venv in a package of its own; a Python that lacks it makes no environment.
    rm -rf "$python"
    if ! { python3 -m venv "$python" || /usr/bin/python3 -m venv "$python"; } 2>/dev/null; then
        say "SKIPPED: no Python with venv (apt-get install python3-venv)"
        rm -rf "$python"
    elif ! "$python/bin/pip" install -q --disable-pip-version-check \
        grpcio==1.85.3 grpcio-reflection==1.85.1 grpcio-health-checking==1.85.1 protobuf==7.36.2; then
        say "SKIPPED: grpcio cannot be had from PyPI"
        rm -rf "$python"
    fi
}

# src/grpc holds what proto/ makes, so that nobody who builds needs the compiler.
check_generated() {
    cargo run -q --locked --manifest-path proto/Cargo.toml --target-dir "$CARGO_TARGET_DIR/tools/proto" -- --check
}

check_docs() { RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps; }

check_dependencies() {
    if ! cargo deny --version >/dev/null 2>&1; then
        say "SKIPPED: cargo-deny is not installed (cargo install --locked cargo-deny)"
        return 0
    fi
    cargo deny --all-features --offline check bans licenses sources || return 1
    if cargo deny fetch db >/dev/null 2>&1; then
        cargo deny --all-features --offline check advisories
    else
        say "SKIPPED: the database of advisories cannot be fetched"
    fi
}

# The programs of examples/, on a root of their own.
run_examples() {
    local dir
    dir=$(mktemp -d "${TMPDIR:-/tmp}/wizefs-examples-XXXXXX")
    local status=0
    {
        cargo run -q --release --locked --example ledger_only &&
        cargo run -q --release --locked --example mount_and_record &&
        "$wizefs" --root "$dir" create docs && "$wizefs" --root "$dir" put README.md docs &&
        cargo run -q --release --locked --example read_the_log -- "$dir" docs &&
        "$wizefs" --root "$dir" node --listen off --grpc-listen 127.0.0.1:0 &&
        cargo run -q --release --locked --example grpc_client -- "http://$(status_field grpc --root "$dir")" &&
        "$wizefs" --root "$dir" stop
    } || status=1
    rm -rf "$dir"
    return $status
}

report() {
    say ""
    if [ ${#failed[@]} -gt 0 ]; then
        say "FAILED:$(printf ' %s;' "${failed[@]}")"
        exit 1
    fi
    say "everything passed in $SECONDS s"
}

run_tests() {
    install_missing test
    find_rust
    if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then
        [ "${WIZEFS_REQUIRE_FUSE:-0}" != 1 ] || die "/dev/fuse is required and cannot be opened"
        say "NO /dev/fuse: every test with a mount is skipped"
    fi
    local before
    before=$(left_behind)
    step "format" cargo fmt --all --check
    step "clippy" cargo clippy --release --locked --workspace --all-targets -- -D warnings
    step "documentation" check_docs
    step "suites of others" install_suites
    step "clients of others" install_clients
    step "schemathesis" install_schemathesis
    step "code made from proto/wizefs.proto" check_generated
    step "tests" cargo test --release --locked --workspace --no-fail-fast
    step "build" cargo build --release --locked
    step "examples" run_examples
    step "dependencies" check_dependencies
    step "nothing left behind" nothing_left_behind "$before"
    report
}

load_quickly() {
    if ! has wrk || ! has nginx; then
        say "SKIPPED: wrk and nginx are missing (apt-get install wrk nginx-light)"
        return 0
    fi
    cargo build --release --locked &&
        WIZEFS_LOAD_SECONDS=1 WIZEFS_LOAD_ROUNDS=1 WIZEFS_LOAD_MIB=64 benches/rest/run.sh "$wizefs"
}

run_bench() {
    install_missing test
    find_rust
    step "benchmark, a quick round" cargo bench --locked --bench against_native -- --quick
    step "benchmark of recording, a quick round" cargo bench --locked --bench recording -- --files 2000
    step "benchmark of the ledger, a quick round" \
        cargo run -q --release --locked -p wizefs-ledger --example throughput -- 5000
    step "benchmark of archives, a quick round" env WIZEFS_BENCH_MEMBERS=1000 WIZEFS_BENCH_MIB=16 \
        WIZEFS_BENCH_FILES=300 WIZEFS_BENCH_ADD_MIB=16 \
        cargo bench --locked -p wizefs-fs --bench archives
    step "REST beside nginx, a quick round" load_quickly
    report
}

run_figures() {
    install_missing build
    find_rust
    step "the ledger alone, beside signing alone and RocksDB alone" cargo run -q --release --locked --workspace \
        --example throughput -- "${WIZEFS_BENCH_TRANSACTIONS:-1000000}" docs/throughput.svg
    local copiers
    for copiers in 1 2 4; do
        step "through a mount, copies at once: $copiers" cargo bench --locked --workspace --bench recording -- \
            --files "${WIZEFS_BENCH_FILES:-100000}" --rounds "${WIZEFS_BENCH_ROUNDS:-1}" --copiers "$copiers"
    done
    report
}

run_soak() {
    install_missing test
    find_rust
    install_suites
    install_schemathesis
    export WIZEFS_REQUIRE_FUSE=1 WIZEFS_SOAK_MINUTES="${WIZEFS_SOAK_MINUTES:-60}"
    export WIZEFS_TEST_FSX="${WIZEFS_TEST_FSX:-1000000}" WIZEFS_TEST_ENTRIES="${WIZEFS_TEST_ENTRIES:-1000000}"
    export WIZEFS_TEST_EXAMPLES="${WIZEFS_TEST_EXAMPLES:-200}"
    cargo test --release --locked --test it -- --nocapture soak suites listing openapi
}

build_deb() {
    install_missing build
    find_rust
    build
    has dpkg-shlibdeps || die "dpkg-shlibdeps is missing; as root: apt-get install -y dpkg-dev"
    say "package  $(packaging/deb.sh "$wizefs" "$CARGO_TARGET_DIR")"
}

try_systemd() {
    local package
    has debootstrap && has systemd-nspawn ||
        die "debootstrap or systemd-nspawn is missing; as root: apt-get install -y debootstrap systemd-container"
    [ "$(id -u)" = 0 ] || die "only root can boot a container"
    build_deb
    package=$(find "$CARGO_TARGET_DIR" -maxdepth 1 -name 'wizefs_*.deb' -newer "$wizefs" | head -n 1)
    packaging/systemd/boot.sh "$package" "$CARGO_TARGET_DIR/tmp/systemd"
}

docker_up() {
    has docker || die "docker is missing; on Debian, as root: apt-get install -y docker.io"
    docker info >/dev/null 2>&1 || die "the docker daemon does not answer: is it running, and may $(id -un) use it?"
    export WIZEFS_DATA="${WIZEFS_DATA:-/var/lib/wizefs-docker}"
    mkdir -p "$WIZEFS_DATA"
    # Where systemd runs every mount is shared; elsewhere those of the container would be seen in it alone.
    case "$(findmnt -n -o PROPAGATION -T "$WIZEFS_DATA")" in
    *shared*) ;;
    *) die "the mount of $WIZEFS_DATA is not shared; as root: mount --bind $WIZEFS_DATA $WIZEFS_DATA && mount --make-shared $WIZEFS_DATA" ;;
    esac
    if docker compose version >/dev/null 2>&1; then
        docker compose up --build --detach
    else
        # The same as compose.yaml.
        docker build -t wizefs .
        docker rm -f wizefs >/dev/null 2>&1 || true
        docker run -d --name wizefs --init --network host --device /dev/fuse --cap-add SYS_ADMIN \
            --security-opt apparmor=unconfined --restart unless-stopped --stop-timeout 60 \
            --mount "type=bind,source=$WIZEFS_DATA,target=/wizefs,bind-propagation=rshared" wizefs
    fi
    say "the node runs in the container wizefs: REST on 127.0.0.1:13000, gRPC on 127.0.0.1:10000, root folder $WIZEFS_DATA; try:"
    say "  docker exec wizefs wizefs status"
    say "  docker exec wizefs wizefs create docs --mount"
    say "  docker exec wizefs wizefs log"
}

case "${1:-up}" in
up) up ;;
test) run_tests ;;
bench) run_bench ;;
figures) run_figures ;;
soak) run_soak ;;
deb) build_deb ;;
systemd) try_systemd ;;
docker) docker_up ;;
*) sed -n '2,11s/^# \{0,1\}//p' start.sh; exit 2 ;;
esac
