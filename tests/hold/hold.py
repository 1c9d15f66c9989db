#!/usr/bin/env python3
"""Thousands of held connections, during which the configuration changes and an upstream dies.

    cargo build --release -p moorgate -p moorgate-load
    python3 tests/hold/hold.py [--connections 15000] [--seconds 60] [--json FILE]

`moorgate-load hold` keeps the connections and sends a message on each every ten seconds. Meanwhile
the configuration is reloaded twenty times, with changed routes, cluster settings and listeners, and
one of two upstreams is killed and comes back. Nothing may be lost: no connection, no message. Ends
with 1 and what went wrong, or with the numbers.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RELEASE = os.path.join(ROOT, "target", "release")
RELOADS = 20

CONFIG = """
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
static_resources:
  listeners:
  - name: held
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: held
          route_config:
            virtual_hosts:
            - name: all
              domains: [ "*" ]
              response_headers_to_add: [ {{ header: {{ key: x-round, value: "{round}" }} }} ]
              routes:
              - match: {{ prefix: "/" }}
                route:
                  cluster: {cluster}
                  retry_policy:
                    retry_on: "reset,connect-failure,refused-stream"
                    num_retries: 3
                    # Not again the host that just died.
                    retry_host_predicate: [ {{ name: envoy.retry_host_predicates.previous_hosts, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate }} }} ]
                    host_selection_retry_max_attempts: 8
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
{more}
  clusters:
{clusters}
"""

EXTRA = """
  - name: extra
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: extra
          cluster: one
"""

CLUSTER = """
  - name: {name}
    connect_timeout: {timeout}s
    lb_policy: {policy}
    circuit_breakers: {{ thresholds: [ {{ max_connections: 4096, max_pending_requests: 65536, max_requests: 65536, max_retries: 1024 }} ] }}
    health_checks: [ {{ timeout: 1s, interval: 0.2s, no_traffic_interval: 0.2s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{ path: / }} }} ]
    load_assignment:
      cluster_name: {name}
      endpoints: [ {{ lb_endpoints: [ {hosts} ] }} ]
"""


def config(turn, ports):
    host = "{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}"
    hosts = ", ".join(host.format(port) for port in ports)
    policy = ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"][turn % 3]
    clusters = [
        CLUSTER.format(name=name, timeout=1 + turn % 3, policy=policy, hosts=hosts)
        for name in ["one", "two"]
    ]
    return CONFIG.format(
        round=turn,
        cluster=["one", "two"][turn // 2 % 2],
        more=EXTRA if turn % 2 else "",
        clusters="".join(clusters),
    )


def serve(port=0):
    """An upstream and its port."""
    child = subprocess.Popen(
        [os.path.join(RELEASE, "moorgate-load"), "serve", "http", "--size", "64", "--listen", f"127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    line = child.stdout.readline()
    return child, int(line.rsplit(":", 1)[1])


class Gateway:
    def __init__(self, directory, binary, ports):
        self.path = os.path.join(directory, "hold.yaml")
        self.ports = ports
        self.write(0)
        address = os.path.join(directory, "admin")
        self.log = open(os.path.join(directory, "log"), "w+")
        self.child = subprocess.Popen(
            [binary, "-c", self.path, "--admin-address-path", address, "--concurrency", "2", "--drain-time-s", "5"],
            stderr=self.log,
        )
        self.admin = None
        until("the admin address", lambda: os.path.exists(address) and os.path.getsize(address))
        with open(address) as file:
            self.admin = file.read()
        until("ready", lambda: self.get("/ready") == "LIVE\n")

    def write(self, turn):
        with open(self.path + ".new", "w") as file:
            file.write(config(turn, self.ports))
        os.replace(self.path + ".new", self.path)

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=30) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def stat(self, name):
        text = self.get(f"/stats?filter=^{name.replace('.', '[.]')}$").strip()
        return int(text.rsplit(" ", 1)[1]) if text else 0

    def reload(self, turn):
        self.write(turn)
        self.child.send_signal(signal.SIGHUP)
        until(f"reload {turn}", lambda: self.stat("moorgate.config.reload_success") == turn)

    def address(self, listener):
        lines = self.get("/listeners").splitlines()
        return next(line.split("::", 1)[1] for line in lines if line.startswith(f"{listener}::"))

    def requests(self, port):
        """Requests that an upstream got."""
        lines = self.get("/clusters").splitlines()
        ends = [line for line in lines if f"127.0.0.1:{port}::rq_total::" in line]
        return sum(int(line.rsplit("::", 1)[1]) for line in ends)

    def memory(self):
        """Proportional set size in KiB."""
        with open(f"/proc/{self.child.pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))


def until(what, done, seconds=60):
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            sys.exit(f"{what}: did not happen")
        time.sleep(0.02)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, default=15000)
    parser.add_argument("--rate", type=int, default=1500, help="connections opened in a second")
    parser.add_argument("--seconds", type=int, default=60, help="how long all are held")
    parser.add_argument("--every", default="10s", help="time between two messages of a connection")
    parser.add_argument("--json", help="file for the numbers")
    options = parser.parse_args()
    binary = os.environ.get("MOORGATE_BIN") or os.path.join(RELEASE, "moorgate")
    children = []
    with tempfile.TemporaryDirectory(prefix="moorgate-hold-") as directory:
        try:
            report = run(options, binary, directory, children)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()
    text = json.dumps(report, indent=1)
    print(text)
    if options.json:
        with open(options.json, "w") as file:
            file.write(text + "\n")
    wrong = judge(options, report)
    for line in wrong:
        print(f"WRONG: {line}")
    sys.exit(1 if wrong else 0)


def run(options, binary, directory, children):
    first, one = serve()
    children.append(first)
    second, two = serve()
    children.append(second)
    gateway = Gateway(directory, binary, [one, two])
    children.append(gateway.child)
    before = gateway.memory()
    descriptors = gateway.descriptors()
    result = os.path.join(directory, "hold.json")
    hold = subprocess.Popen(
        [
            os.path.join(RELEASE, "moorgate-load"), "hold", f"http://{gateway.address('held')}/",
            "-c", str(options.connections), "--rate", str(options.rate), "--every", options.every,
            "-d", f"{options.seconds}s", "--timeout", "30s", "--json", result,
        ],
        stdout=subprocess.DEVNULL,
    )
    children.append(hold)
    active = "http.held.downstream_cx_active"
    until("all are open", lambda: gateway.stat(active) >= options.connections)
    start = time.monotonic()
    kill_at, return_at = RELOADS // 4, RELOADS // 2
    served = 0
    for turn in range(1, RELOADS + 1):
        gateway.reload(turn)
        if turn == kill_at:
            second.kill()
            second.wait()
        if turn == return_at:
            second, _ = serve(two)
            children.append(second)
            served = gateway.requests(two)
        due = start + turn * (options.seconds * 0.8) / RELOADS
        time.sleep(max(0, due - time.monotonic()))
    numbers = {
        "held_at_last_reload": gateway.stat(active),
        "pss_kib": [before, gateway.memory()],
        "parked": {kind: gateway.stat(f"moorgate.parked.{kind}") for kind in ["idle", "pair", "mux", "pooled"]},
        "requests_after_the_return": gateway.requests(two) - served,
    }
    if hold.wait(timeout=options.seconds + 120) != 0:
        sys.exit("moorgate-load hold failed")
    with open(result) as file:
        report = json.load(file)
    until("the connections are gone", lambda: gateway.stat(active) == 0)
    names = ["reload_success", "reload_rejected", "snapshots_alive"]
    until("one snapshot", lambda: gateway.stat("moorgate.config.snapshots_alive") == 1, 10)
    stats = {name: gateway.stat(f"moorgate.config.{name}") for name in names}
    stats["retries"] = sum(gateway.stat(f"cluster.{name}.upstream_rq_retry") for name in ["one", "two"])
    stats["healthy"] = gateway.stat("cluster.one.membership_healthy")
    numbers["descriptors"] = [descriptors, gateway.descriptors()]
    gateway.child.send_signal(signal.SIGTERM)
    numbers["exit"] = gateway.child.wait(timeout=60)
    return {"hold": report, "gateway": stats, **numbers}


def judge(options, report):
    wrong = []

    def want(what, is_, wanted):
        if is_ != wanted:
            wrong.append(f"{what}: {is_}, not {wanted}")

    counts = report["hold"]["counts"]
    want("connected at the end", counts["connected"], options.connections)
    want("held at the last reload", report["held_at_last_reload"], options.connections)
    for name in ["failed", "dropped", "reconnected"]:
        want(name, counts[name], 0)
    for name, count in counts["errors"].items():
        want(f"errors: {name}", count, 0)
    want("reloads", report["gateway"]["reload_success"], RELOADS)
    want("refused reloads", report["gateway"]["reload_rejected"], 0)
    want("snapshots alive", report["gateway"]["snapshots_alive"], 1)
    want("healthy hosts at the end", report["gateway"]["healthy"], 2)
    want("exit status", report["exit"], 0)
    if counts["answers"] < options.connections:
        wrong.append(f"only {counts['answers']} answers")
    if report["requests_after_the_return"] <= 0:
        wrong.append("the upstream that came back was not used")
    return wrong


if __name__ == "__main__":
    main()
