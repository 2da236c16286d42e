#!/usr/bin/env bash
# What compose.yaml runs, with plain processes: 2 gateways, 3 workers, PostgreSQL, and Prometheus and
# Grafana if they are installed. Ctrl-C ends all of it in order; sessions are kept for the next time.
#
#   deploy/local.sh [FOLDER]       keeps data and logs there; default .single-state/local
#
# PROGRAMS is where gateway and worker are (default target/release: `make local` builds them), and
# with PORTS=free all listen where there is room, and say where.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
programs=$(realpath "${PROGRAMS:-$top/target/release}")
mkdir -p "${1:-$top/.single-state/local}"
data=$(realpath "${1:-$top/.single-state/local}")
workers=() gateways=() others=()
export SINGLE_STATE_LOG_FORMAT=text

say() { echo "local: $*"; }
fail() { say "$*" >&2; exit 1; }
port() { [ "${PORTS-}" = free ] && echo 0 || echo "$1"; }

# PostgreSQL refuses to run as root, so there it is its own user.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then
    setpriv --reuid=postgres --regid=postgres --clear-groups -- "$@"
  else "$@"; fi
}

# Ends processes in order: gateways send their browsers away, workers save, then the rest.
end() {
  local status=$?
  trap - EXIT INT TERM
  say "ends"
  finish "${gateways[@]-}" || status=1
  finish "${workers[@]-}" || status=1
  finish "${others[@]-}" || true
  if [ -f "$data/postgres/postmaster.pid" ]; then
    as_postgres "$postgres/pg_ctl" --pgdata "$data/postgres" --mode fast stop >> "$data/postgres.log"
  fi
  say "has ended"
  exit "$status"
}

finish() {
  local status=0 process
  for process in "$@"; do [ -z "$process" ] || kill -TERM "$process" 2>/dev/null || status=1; done
  for process in "$@"; do [ -z "$process" ] || wait "$process" || status=1; done
  return "$status"
}

all_run() {
  local process
  for process in "$@"; do kill -0 "$process" 2> /dev/null || return 1; done
}

# The program in a group of its own, so that Ctrl-C reaches this script alone; its log in a file.
launch() {
  local name=$1
  shift
  : > "$data/$name.log"
  setsid "$@" >> "$data/$name.log" 2>&1 < /dev/null &
}

# An address that a process says it has, from the line `… listens listen=… admin_listen=…`.
address() {
  local name=$1 field=$2 process=$3 found
  for _ in $(seq 300); do
    found=$(sed -n "s/.* listens .*\b$field=\([^ ]*\).*/\1/p" "$data/$name.log")
    [ -z "$found" ] || { echo "$found"; return; }
    kill -0 "$process" 2>/dev/null || break
    sleep 0.1
  done
  fail "$name does not start: $(cat "$data/$name.log")"
}

# Waits until an admin port answers that its process is ready.
ready() {
  local line
  for _ in $(seq 300); do
    line=$( { exec 3<>"/dev/tcp/${1%:*}/${1##*:}" && printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3 &&
      head -n 1 <&3; } 2>/dev/null || true)
    case $line in *" 200 "*) return ;; esac
    sleep 0.1
  done
  fail "$1 does not become ready: see the logs in $data"
}

start_postgres() {
  postgres=$(dirname "$(command -v initdb || ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | tail -n 1)")
  [ -x "$postgres/initdb" ] || fail "PostgreSQL's server is missing: tests/setup.sh test gets it"
  if [ ! -f "$data/postgres/PG_VERSION" ]; then
    install -d -m 700 "$data/postgres" "$data/socket"
    [ "$(id -u)" != 0 ] || chown postgres "$data/postgres" "$data/socket"
    as_postgres "$postgres/initdb" --pgdata "$data/postgres" --auth trust --username single_state \
      --encoding UTF8 --no-sync > "$data/postgres.log" || fail "initdb: $(cat "$data/postgres.log")"
  fi
  as_postgres "$postgres/pg_ctl" --pgdata "$data/postgres" --wait --log "$data/postgres/log" start \
    --options "-c listen_addresses= -c unix_socket_directories=$data/socket" >> "$data/postgres.log" ||
    fail "PostgreSQL does not start: $(tail -n 3 "$data/postgres/log" 2>/dev/null)"
  export SINGLE_STATE_STORE="postgres://single_state@%2F${data//\//%2F}%2Fsocket/postgres"
  SINGLE_STATE_STORE=${SINGLE_STATE_STORE/%2F%2F/%2F}
}

# A key that stays, as hex digits of so many bytes.
key() {
  [ -s "$data/$1" ] || (umask 077 && od -An -vtx1 -N "$2" /dev/urandom | tr -d ' \n' > "$data/$1")
}

# Addresses as Prometheus reads its targets.
targets() { printf '[{"targets": ["%s"]}]\n' "$(printf '%s\n' "$@" | sed ':a;N;s/\n/", "/;ta')"; }

command -v "$programs/gateway" "$programs/worker" > /dev/null ||
  fail "no gateway and worker in $programs: run \`make local\`, or name their folder in PROGRAMS"
trap end EXIT
trap 'exit 0' INT TERM
start_postgres
key session-keys 32
key placement-key 16
SINGLE_STATE_PLACEMENT_KEY=$(cat "$data/placement-key")
export SINGLE_STATE_PLACEMENT_KEY

links=() worker_admins=() gateway_admins=()
for index in 0 1 2; do
  launch "worker-$index" "$programs/worker" --index "$index" \
    --listen "127.0.0.1:$(port 700$index)" --admin-listen "127.0.0.1:$(port 901$index)"
  workers+=($!)
  links+=("$(address "worker-$index" listen $!)")
  worker_admins+=("$(address "worker-$index" admin_listen $!)")
done
known=$(IFS=,; echo "${links[*]}")
for index in 0 1; do
  launch "gateway-$index" "$programs/gateway" run --workers "$known" \
    --session-keys-file "$data/session-keys" --drain-timeout 10s \
    --listen "127.0.0.1:$(port 800$index)" --admin-listen "127.0.0.1:$(port 900$index)"
  gateways+=($!)
  gateway_admins+=("$(address "gateway-$index" admin_listen $!)")
  say "gateway $index: http://$(address "gateway-$index" listen $!) (status on ${gateway_admins[$index]})"
done
for admin in "${worker_admins[@]}" "${gateway_admins[@]}"; do ready "$admin"; done

if command -v prometheus > /dev/null; then
  mkdir -p "$data/prometheus/targets"
  cp "$top/deploy/monitoring/"{prometheus,rules}.yaml "$data/prometheus"
  targets "${worker_admins[@]}" > "$data/prometheus/targets/worker.json"
  targets "${gateway_admins[@]}" > "$data/prometheus/targets/gateway.json"
  launch prometheus prometheus --config.file "$data/prometheus/prometheus.yaml" \
    --storage.tsdb.path "$data/prometheus/data" --web.listen-address "127.0.0.1:$(port 9090)"
  others+=($!)
  [ "${PORTS-}" = free ] || say "Prometheus: http://127.0.0.1:9090"
fi
if command -v grafana-server > /dev/null; then
  launch grafana env GF_SERVER_HTTP_ADDR=127.0.0.1 GF_SERVER_HTTP_PORT="$(port 3000)" \
    GF_AUTH_ANONYMOUS_ENABLED=true GF_PATHS_DATA="$data/grafana" \
    GF_PATHS_PROVISIONING="$top/deploy/monitoring/grafana" \
    PROMETHEUS=http://127.0.0.1:9090 DASHBOARDS="$top/deploy/monitoring" \
    grafana-server --homepath /usr/share/grafana
  others+=($!)
  [ "${PORTS-}" = free ] || say "Grafana: http://127.0.0.1:3000"
fi
say "runs; Ctrl-C ends it"
# One that ends just when `wait` begins is overlooked by it, so it is looked for once a second too.
while all_run "${workers[@]}" "${gateways[@]}"; do
  sleep 1 &
  wait -n "${workers[@]}" "${gateways[@]}" $! 2> /dev/null || true
done
fail "a process has ended by itself: see the logs in $data"
