"""A server on loopback that gives each connection a thread of its own."""

import socket
import threading


class Listening:
    """Listens from its making on; whoever inherits says in `serve(sock)` what it does."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()
