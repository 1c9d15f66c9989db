#!/usr/bin/env python3
"""The admin interface beside Envoy's: the same configuration, the same questions, the same shapes.

    MOORGATE_BIN=target/release/moorgate python3 tests/interop/admin_shapes.py

Compares the lines of `/clusters` and `/listeners` by their names, JSON answers by their keys and the
types of their values, and the names of statistics of a host, a listener and a connection manager.
Moorgate may have more; what Envoy has and Moorgate does not is an error, except for what is listed.
Skipped when there is no Envoy (perf/install-peers.sh gets one).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENVOY = os.path.join(ROOT, ".peers", "envoy")
MOORGATE = os.environ.get("MOORGATE_BIN", os.path.join(ROOT, "target", "release", "moorgate"))

CONFIG = """
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }
node: { id: shapes, cluster: shapes }
static_resources:
  listeners:
  - name: web
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          route_config:
            name: routes
            virtual_hosts: [ { name: all, domains: [ "*" ], routes: [ { match: { prefix: "/" }, route: { cluster: back } } ] } ]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: back
    connect_timeout: 1s
    health_checks: [ { timeout: 1s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {} } ]
    load_assignment:
      cluster_name: back
      endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } } } ] } ]
"""

# What Envoy says of things that Moorgate does not have.
ABSENT = re.compile(
    r"\.node\.(user_agent|extensions|dynamic_parameters)"
    r"|command_line_options\.(enable_mutex_tracing|disabled_extensions|use_dynamic_base_id|base_id_path"
    r"|enable_fine_grain_logging|socket_path|socket_mode|enable_core_dump|stats_tag|skip_hot_restart_on_no_parent"
    r"|skip_hot_restart_parent_stats|skip_deprecated_logs|log_stacktrace_single_entry)"
)


class Process:
    def __init__(self, binary, directory, *more):
        self.address = os.path.join(directory, "admin-" + os.path.basename(binary))
        config = os.path.join(directory, "shapes.yaml")
        with open(config, "w") as file:
            file.write(CONFIG)
        command = [binary, "-c", config, "--admin-address-path", self.address, "--concurrency", "1", "-l", "error"]
        self.child = subprocess.Popen([*command, *more])
        end = time.monotonic() + 60
        while self.ask("/ready") != "LIVE\n":
            if time.monotonic() > end or self.child.poll() is not None:
                sys.exit(f"{binary} did not become ready")
            time.sleep(0.05)

    def ask(self, path):
        try:
            with open(self.address) as file:
                address = file.read()
            with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except (OSError, urllib.error.URLError, ValueError):
            return ""


def shape(value, path=""):
    """Paths of all keys, with the type of what is there."""
    if isinstance(value, dict):
        found = set()
        for key, inner in value.items():
            found |= shape(inner, f"{path}.{key}")
        return found or {f"{path}: object"}
    if isinstance(value, list):
        found = set()
        for inner in value:
            # Elements are told apart by what they say they are.
            name = inner.get("@type", "") if isinstance(inner, dict) else ""
            found |= shape(inner, f"{path}[{name.rsplit('.', 1)[-1]}]")
        return found
    return {f"{path}: {type(value).__name__}"}


def names(text):
    """Names of lines, without addresses and values."""
    found = set()
    for line in text.splitlines():
        line = re.sub(r"127\.0\.0\.1:\d+", "ADDR", line)
        found.add(re.sub(r"(::|: )[^:]*$", "", line) if "::" in line or ": " in line else line)
    return found


def main():
    if not os.path.exists(ENVOY):
        print("no Envoy: skipped")
        return
    missing = []
    with tempfile.TemporaryDirectory(prefix="moorgate-shapes-") as directory:
        started = []
        try:
            envoy = Process(ENVOY, directory, "--use-dynamic-base-id")
            started.append(envoy)
            ours = Process(MOORGATE, directory)
            started.append(ours)
            questions = 0
            for path in ["/clusters", "/listeners"]:
                questions += 1
                missing += [f"{path}: {name}" for name in names(envoy.ask(path)) - names(ours.ask(path))]
            for path in [
                "/clusters?format=json",
                "/listeners?format=json",
                "/server_info",
                "/memory",
                "/certs",
                "/config_dump",
                "/config_dump?resource=static_clusters",
                "/config_dump?resource=static_listeners",
                "/config_dump?resource=static_route_configs",
                "/stats?format=json&filter=^cluster[.]back[.]membership",
            ]:
                questions += 1
                theirs, mine = (shape(json.loads(side.ask(path))) for side in (envoy, ours))
                gone = {name for name in theirs - mine if not ABSENT.search(name)}
                missing += [f"{path}: {name}" for name in gone]
            for pattern in ["cluster[.]back[.](health_check|membership)", "cluster[.]back[.]circuit_breakers[.]default"]:
                questions += 1
                path = f"/stats?filter=^{pattern}"
                missing += [f"{path}: {name}" for name in names(envoy.ask(path)) - names(ours.ask(path))]
            for path in ["/config_dump?resource=bootstrap", "/config_dump?resource=nothing", "/nothing"]:
                questions += 1
                if envoy.ask(path).splitlines()[:1] != ours.ask(path).splitlines()[:1] and path != "/nothing":
                    missing.append(f"{path}: {ours.ask(path)!r}, not {envoy.ask(path)!r}")
        finally:
            for process in started:
                process.child.kill()
                process.child.wait()
    for line in sorted(missing):
        print(f"MISSING {line}")
    print(f"admin shapes: {questions} questions, {len(missing)} differences")
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
