#!/usr/bin/env bash
# Small downloads, large ones and uploads of a wizefs node, beside nginx serving the same files from the same disk in the same
# minutes: benches/rest/run.sh [WIZEFS]. Needs wrk, nginx and curl (Debian). WIZEFS_LOAD_SECONDS (10), WIZEFS_LOAD_ROUNDS (3) and
# WIZEFS_LOAD_MIB (1024) make it shorter. Everything stays below one temporary folder and on loopback.
set -euo pipefail

wizefs=${1:-${CARGO_TARGET_DIR:?}/release/wizefs}
seconds=${WIZEFS_LOAD_SECONDS:-10} rounds=${WIZEFS_LOAD_ROUNDS:-3} mib=${WIZEFS_LOAD_MIB:-1024}
for program in wrk nginx curl; do
    command -v "$program" >/dev/null || { echo "missing: $program (apt-get install wrk nginx-light curl)"; exit 1; }
done
dir=$(mktemp -d "${TMPDIR:-/tmp}/wizefs-load-XXXXXX")
export WIZEFS_ROOT="$dir/root"
data="$WIZEFS_ROOT/buckets/docs/data"

finish() {
    "$wizefs" stop --quiet >/dev/null 2>&1 || true
    [ ! -s "$dir/nginx.pid" ] || kill "$(cat "$dir/nginx.pid")" 2>/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT

"$wizefs" node --listen 127.0.0.1:0 --grpc-listen off --quiet
node_pid=$("$wizefs" status --json | sed -n 's/.*"pid":\([0-9]*\).*/\1/p')
rest=$("$wizefs" status --json | sed -n 's/.*"rest":"\([^"]*\)".*/\1/p')
"$wizefs" create docs --quiet
head -c 1024 /dev/urandom > "$dir/1k"
head -c 65536 /dev/urandom > "$dir/64k"
head -c $((mib << 20)) /dev/urandom > "$dir/big"
for file in 1k 64k big; do
    curl -sS --fail -o /dev/null -T "$dir/$file" "http://$rest/v1/buckets/docs/files/$file"
done

# Any free port: nginx says nothing of port 0.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$dir/nginx.conf" <<CONF
worker_processes auto; pid $dir/nginx.pid; error_log $dir/nginx.log; user $(id -un);
events { worker_connections 2048; }
http {
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; client_body_temp_path $dir/body;
    proxy_temp_path $dir/p; fastcgi_temp_path $dir/f; uwsgi_temp_path $dir/u; scgi_temp_path $dir/s;
    server { listen 127.0.0.1:$port; root $data; location /up/ { root $dir; dav_methods PUT; client_max_body_size 0; } }
}
CONF
mkdir "$dir/up"
nginx -c "$dir/nginx.conf" -e "$dir/nginx.log"

memory() { awk '/^VmHWM/ { printf "%d", $2 / 1024 }' "/proc/$node_pid/status"; }
now_memory() { awk '/^VmRSS/ { printf "%d", $2 / 1024 }' "/proc/$node_pid/status"; }
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# requests/s p50 p99 of a URL at so many connections
hit() {
    wrk -t"$(($2 < 2 ? 1 : 2))" -c"$2" -d"${seconds}s" --latency "$1" | awk '
        /50%/ { p50 = $2 } /99%/ { p99 = $2 } /Requests\/sec/ { rate = $2 } /Non-2xx/ { bad = " (failures: " $NF ")" }
        END { print rate, p50, p99 bad }'
}

echo "file connections   wizefs req/s p50 p99   nginx req/s p50 p99   ratio   (median of $rounds rounds of $seconds s)"
for file in 1k 64k; do
    for connections in 1 16 256; do
        : > "$dir/ours"; : > "$dir/theirs"
        for _ in $(seq "$rounds"); do
            hit "http://$rest/v1/buckets/docs/files/$file" "$connections" >> "$dir/ours"
            hit "http://127.0.0.1:$port/$file" "$connections" >> "$dir/theirs"
        done
        ours=$(sort -n "$dir/ours" | sed -n "$(((rounds + 1) / 2))p") theirs=$(sort -n "$dir/theirs" | sed -n "$(((rounds + 1) / 2))p")
        echo "$file $connections   $ours   $theirs   $(awk -v a="${ours%% *}" -v b="${theirs%% *}" 'BEGIN { printf "%.2f", a / b }')"
    done
done
echo "memory after 256 connections: $(now_memory) MiB now, $(memory) MiB at most (with the upload of $mib MiB before)"

# seconds a command takes
took() { local start; start=$(date +%s.%N); "$@" >/dev/null; awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.3f\n", b - a }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", b / a }'; }
speed() { awk -v s="$1" -v m="$mib" 'BEGIN { printf "%.0f MiB/s", m / s }'; }

: > "$dir/a"; : > "$dir/b"; : > "$dir/c"
for _ in $(seq "$rounds"); do
    took curl -sS --fail -o /dev/null "http://$rest/v1/buckets/docs/files/big" >> "$dir/a"
    took curl -sS --fail -o /dev/null "http://127.0.0.1:$port/big" >> "$dir/b"
    took cp "$data/big" "$dir/copy" >> "$dir/c"
    # Nothing of it is written back while the next one is measured.
    rm "$dir/copy"
done
a=$(median < "$dir/a") b=$(median < "$dir/b") c=$(median < "$dir/c")
echo "download $mib MiB: wizefs $(speed "$a"), nginx $(speed "$b"), cp $(speed "$c"); wizefs/nginx $(ratio "$a" "$b")"

: > "$dir/a"; : > "$dir/b"; : > "$dir/c"; : > "$dir/d"
for round in $(seq "$rounds"); do
    took curl -sS --fail -T "$dir/big" "http://$rest/v1/buckets/docs/files/up$round" >> "$dir/a"
    took curl -sS --fail -T "$dir/big" "http://127.0.0.1:$port/up/big$round" >> "$dir/b"
    rm "$dir/up/big$round"
    took bash -c "curl -sS --fail -T '$dir/big' 'http://127.0.0.1:$port/up/big$round' && sync '$dir/up/big$round'" >> "$dir/d"
    took bash -c "cp '$dir/big' '$dir/copy' && sync '$dir/copy'" >> "$dir/c"
    curl -sS --fail -X DELETE -o /dev/null "http://$rest/v1/buckets/docs/files/up$round"
    rm "$dir/up/big$round" "$dir/copy"
done
a=$(median < "$dir/a") b=$(median < "$dir/b") c=$(median < "$dir/c") d=$(median < "$dir/d")
echo "upload $mib MiB: wizefs (hashed, on disk and on the ledger) $(speed "$a"), nginx (nothing on disk) $(speed "$b"), nginx and sync $(speed "$d"), cp and sync $(speed "$c"); wizefs/nginx $(ratio "$a" "$b"), wizefs/nginx and sync $(ratio "$a" "$d")"
echo "memory at the end: $(now_memory) MiB now, $(memory) MiB at most"
