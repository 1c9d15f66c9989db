#!/usr/bin/env python3
"""Makes vectors.txt with Python's hpack: pip install hpack==4.1.0; vectors.py > vectors.txt

With a directory, converts the stories below it, of http2jp/hpack-test-case, to the same form.
"""

import glob
import json
import random
import sys


def show(kind, name, value):
    print(kind, name.hex(), value.hex())


def convert(root):
    for path in sorted(glob.glob(f"{root}/**/story_*.json", recursive=True)):
        cases = json.load(open(path))["cases"]
        if "wire" not in cases[0]:
            continue
        print("story", path)
        for case in cases:
            if case.get("header_table_size") is not None:
                print("size", case["header_table_size"])
            print("block", case["wire"])
            for field in case["headers"]:
                for name, value in field.items():
                    show("field", name.encode(), value.encode())


def make():
    from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple

    rng = random.Random(7541)
    agents = ["h2load nghttp2/1.52.0", "curl/8.5.0", "grpc-python/1.60.0 grpc-c/37.0.0 (linux; chttp2)"]

    def request(n):
        yield ":method", rng.choice(["GET", "POST", "PUT", "OPTIONS"])
        yield ":scheme", rng.choice(["http", "https"])
        yield ":authority", f"host-{n % 3}.example.com:8443"
        yield ":path", f"/shop/{rng.randrange(50)}/items?page={rng.randrange(9)}&q=%C3%A9"
        yield "user-agent", agents[n % 3]
        yield "accept", "*/*"
        yield "accept-encoding", rng.choice(["gzip, deflate", "gzip, deflate, br"])
        yield "cookie", f"session={rng.getrandbits(128):032x}; theme=dark"
        if n % 2:
            yield "authorization", f"Bearer {rng.getrandbits(160):040x}"
        if n % 3 == 0:
            yield "te", "trailers"
            yield "grpc-timeout", f"{rng.randrange(1, 10**8)}u"
            yield "content-type", "application/grpc"

    def response(n):
        yield ":status", rng.choice(["200", "204", "206", "302", "304", "404", "500", "503"])
        yield "date", f"Mon, 21 Oct 2013 20:13:{n % 60:02} GMT"
        yield "server", "envoy"
        yield "content-type", rng.choice(["text/html; charset=utf-8", "application/json"])
        yield "content-length", str(rng.randrange(10**6))
        yield "set-cookie", f"id={rng.getrandbits(64):x}; Path=/; HttpOnly"
        yield "x-empty", ""
        yield "x-\u00e9".encode().decode("latin-1"), "".join(chr(rng.randrange(256)) for _ in range(20))

    for name, fields in ("request", request), ("response", response):
        for huffman in True, False:
            for sizes in False, True:
                print(f"story python-hpack {name} huffman={huffman} sizes={sizes}")
                encoder = Encoder()
                for n in range(12):
                    if sizes and n % 4 == 3:
                        # Rising: Python writes every step, and one above the lowest must not come first.
                        for size in sorted(rng.sample([0, 100, 300, 1000, 4096, 16384], rng.randrange(1, 3))):
                            encoder.header_table_size = size
                            print("size", size)
                    block = []
                    for field, value in fields(n):
                        field, value = field.encode("latin-1"), value.encode("latin-1")
                        secret = field == b"authorization"
                        block.append((NeverIndexedHeaderTuple if secret else HeaderTuple)(field, value))
                    print("block", encoder.encode(block, huffman=huffman).hex())
                    for field in block:
                        show("field" if field.indexable else "secret", *field)


if len(sys.argv) > 1:
    convert(sys.argv[1])
else:
    make()
