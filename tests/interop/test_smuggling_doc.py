"""docs/smuggling.md, row by row, against the running gateway.

The table is written by a test of the codecs; this is the whole program, over sockets. What the table
says is forwarded is sent straight at an upstream too: both must have been read as the same message.
"""

import re
import unittest

from gateway import ROOT, Gateway, Scratch, closed_port
from http1 import Client, request
from upstream import Upstream

DOC = ROOT / "docs" / "smuggling.md"

# What the gateway itself adds to every request and answer.
ADDED = {"x-forwarded-proto", "x-request-id", "x-envoy-expected-rq-timeout-ms", "date", "server",
         "x-envoy-upstream-service-time"}


def rows():
    """(group, shape, bytes, results) of every row; a result is bytes, or a word and a status."""
    group = ""
    for line in DOC.read_text().splitlines():
        if line.startswith("## "):
            group = line[3:]
        cells = re.split(r"(?<!\\) \| ", line.strip("| ")) if line.startswith("| ") else []
        if len(cells) != 3 or cells[0] == "Shape":
            continue
        results = [result(part) for part in cells[2].split(", then ")]
        yield group, cells[0], literal(cells[1]), results


def literal(cell):
    """The bytes that a cell writes down with Rust's escapes."""
    text = cell.strip("`").replace("\\|", "|")

    def one(match):
        found = match[1]
        if found.startswith("u{"):
            return chr(int(found[2:-1], 16)).encode()
        if found.startswith("x"):
            return bytes([int(found[1:], 16)])
        return {"r": b"\r", "n": b"\n", "t": b"\t"}.get(found, found.encode())

    out, at = b"", 0
    for match in re.finditer(r"\\(u\{[0-9a-f]+\}|x[0-9a-f]{2}|.)", text):
        out += text[at:match.start()].encode() + one(match)
        at = match.end()
    return out + text[at:].encode()


def result(part):
    refusal = re.match(r"(\d{3}) `", part)
    if refusal:
        return int(refusal[1])
    return "cut off" if part == "`(cut off)`" else part if part == "closed" else literal(part)


def own(headers):
    return sorted(pair for pair in headers if pair[0] not in ADDED)


def message(seen):
    """A request as an upstream read it, without what the gateway adds."""
    return (seen.method, seen.target, seen.version, own(seen.headers), seen.framing, seen.body(),
            seen.trailers, seen.complete)


class Documented(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        cls.upstream = Upstream()
        cls.addClassCleanup(cls.upstream.close)
        cls.gateway = Gateway(cls.scratch, upstream=cls.upstream.port, closed=closed_port())
        cls.port = cls.gateway.port("shapes")

    def exchange(self, port, data):
        """Sends bytes; the statuses that came back, and the requests the upstream saw."""
        self.upstream.take()
        answers = []
        with Client(port, timeout=2.0) as client:
            client.send(data)
            try:
                while (answer := client.read()) is not None:
                    answers.append(answer.status)
                    client.sock.settimeout(0.1)
            except TimeoutError:
                pass
        return answers, self.upstream.take()

    def test_requests(self):
        checked = 0
        for group, shape, data, results in rows():
            if group == "Responses":
                continue
            checked += 1
            with self.subTest(f"{group}: {shape}"):
                answers, seen = self.exchange(self.port, data)
                forwarded = [one for one in results if isinstance(one, bytes)]
                refused = [one for one in results if isinstance(one, int)]
                self.assertEqual(answers, [200] * len(forwarded) + refused)
                if "cut off" in results:
                    self.assertFalse([one for one in seen if one.complete], "passed on whole")
                    continue
                expected = []
                if forwarded:
                    _, expected = self.exchange(self.upstream.port, b"".join(forwarded))
                self.assertEqual([message(one) for one in seen],
                                 [message(one) for one in expected])
        self.assertGreater(checked, 100)

    def test_responses(self):
        checked = 0
        for group, shape, data, results in rows():
            if group != "Responses":
                continue
            checked += 1
            with self.subTest(shape):
                self.upstream.replies = {"/reply": data}
                with Client(self.port, timeout=2.0) as client:
                    client.send(request(target="/reply"))
                    answer = client.read()
                first = results[0]
                if isinstance(first, int):
                    self.assertEqual(answer.status, first)
                    continue
                # The answer as the table has it, read by the same client from the upstream itself.
                self.upstream.replies = {"/reply": first}
                with Client(self.upstream.port, timeout=2.0) as client:
                    client.send(request(target="/reply"))
                    expected = client.read()
                self.assertEqual((answer.status, own(answer.headers), answer.body, answer.trailers),
                                 (expected.status, own(expected.headers), expected.body,
                                  expected.trailers))
        self.assertGreater(checked, 15)


if __name__ == "__main__":
    unittest.main()
