"""A gRPC server of PyPI's `grpcio` without generated code: messages are bytes.

    grpc_server.py PORT [DIRECTORY WITH server.pem AND server.key] [--max-age MS]

`/test.Echo/` has the four shapes: Unary, Collect (answers the sum of sizes), Spread (`COUNT SIZE`), Chat.
What else it is to do is in the metadata of a call, see `before`. `/test.Control/` is for the tests.
With `--max-age` connections get a GOAWAY at that age, and time to finish.
"""

import json
import sys
import threading
import time
from concurrent import futures

import grpc

MOST = 16 << 20
NAMES = {code.value[0]: code for code in grpc.StatusCode}


class Server(grpc.GenericRpcHandler):
    def __init__(self):
        self.lock = threading.Condition()
        self.cancelled = 0
        self.watching = 0
        self.round = 0
        self.methods = {
            "/test.Echo/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "/test.Echo/Collect": grpc.stream_unary_rpc_method_handler(self.collect),
            "/test.Echo/Spread": grpc.unary_stream_rpc_method_handler(self.spread),
            "/test.Echo/Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "/test.Echo/Watch": grpc.unary_stream_rpc_method_handler(self.watch),
            "/test.Control/Wake": grpc.unary_unary_rpc_method_handler(self.wake),
            "/test.Control/Seen": grpc.unary_unary_rpc_method_handler(self.seen),
        }

    def service(self, details):
        return self.methods.get(details.method)

    def before(self, context):
        """What the metadata asks for: trailers, a status, a time to sleep."""
        asked = dict(context.invocation_metadata())
        context.add_callback(lambda: self.ended(context))
        # Upper bounds of what a head may hold are the gateway's, not ours.
        if "x-echo" in asked:
            context.send_initial_metadata((("x-echoed", asked["x-echo"]),))
            context.set_trailing_metadata((("x-trailer", asked["x-echo"]), ("x-bin", b"\0\1\xff")))
        if "x-fail" in asked:
            context.abort(NAMES[int(asked["x-fail"])], "as asked: 100% caf\u00e9")
        if "x-sleep" in asked:
            time.sleep(float(asked["x-sleep"]))

    def ended(self, context):
        # What ended by itself has a status; what was cancelled has none.
        with self.lock:
            if not getattr(context, "finished", False):
                self.cancelled += 1
            self.lock.notify_all()

    def unary(self, request, context):
        self.before(context)
        context.finished = True
        if request == b"time":
            remaining = context.time_remaining()
            return b"none" if remaining is None else str(remaining).encode()
        return request

    def collect(self, requests, context):
        self.before(context)
        total = sum(len(request) for request in requests)
        context.finished = True
        return str(total).encode()

    def spread(self, request, context):
        self.before(context)
        count, size = map(int, request.split())
        for number in range(count):
            yield bytes([number & 255]) * size
        if "x-then-fail" in dict(context.invocation_metadata()):
            context.finished = True
            context.abort(grpc.StatusCode.DATA_LOSS, "after the messages")
        context.finished = True

    def chat(self, requests, context):
        self.before(context)
        yield from requests
        context.finished = True

    def watch(self, _, context):
        """A message at once, and one for each time that somebody wakes the watchers. It never ends."""
        self.before(context)
        with self.lock:
            self.watching += 1
            seen = self.round
        try:
            yield b"begun"
            while context.is_active():
                with self.lock:
                    self.lock.wait_for(lambda at=seen: self.round > at, timeout=0.5)
                    now = self.round
                if now > seen:
                    seen = now
                    yield str(now).encode()
        finally:
            with self.lock:
                self.watching -= 1
                self.lock.notify_all()

    def wake(self, _, context):
        context.finished = True
        with self.lock:
            self.round += 1
            self.lock.notify_all()
            return str(self.round).encode()

    def seen(self, request, context):
        """What was counted, once as many calls as asked were cancelled and so many are watching."""
        context.finished = True
        cancelled, watching = map(int, request.split())
        with self.lock:
            self.lock.wait_for(lambda: self.cancelled >= cancelled and self.watching == watching, 15)
            return json.dumps({"cancelled": self.cancelled, "watching": self.watching}).encode()


def main():
    arguments = sys.argv[1:]
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MOST),
               ("grpc.max_send_message_length", MOST), ("grpc.max_metadata_size", 64 << 10)]
    if "--max-age" in arguments:
        at = arguments.index("--max-age")
        options += [("grpc.max_connection_age_ms", int(arguments[at + 1])),
                    ("grpc.max_connection_age_grace_ms", 10_000)]
        del arguments[at:at + 2]
    server = grpc.server(futures.ThreadPoolExecutor(256), options=options)
    server.add_generic_rpc_handlers((Server(),))
    address = f"127.0.0.1:{arguments[0]}"
    if len(arguments) > 1:
        with open(f"{arguments[1]}/server.key", "rb") as key, open(f"{arguments[1]}/server.pem", "rb") as chain:
            server.add_secure_port(address, grpc.ssl_server_credentials([(key.read(), chain.read())]))
    else:
        server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


main()
