"""The checks must be able to fail: straight at the upstream, without a proxy, shapes are unsafe."""

import unittest

from smuggling import SHAPES, outcome
from upstream import Upstream


class SmugglingOracle(unittest.TestCase):
    EXPECTED = {
        "CL then TE": "CL and TE",
        "two CL, different": "head without an end",
        "CL list, different": "ambiguous CL",
        "CL with plus": "ambiguous CL",
        "TE: gzip, chunked": "ambiguous TE",
        "TE with a parameter": "ambiguous TE",
        "TE twice": "ambiguous TE",
        "header value with NUL": "control byte",
        "bare LF after a header": "head without an end",
        "chunk data too long": None,
        "TE after a bare LF": "bare CR or LF",
        "bare CR in a value": "bare CR or LF",
        "header folded": "folded line",
        "TE, space before colon": "space before colon",
        "GET with a body": None,
        "chunk extension": None,
    }

    def test_each_kind_of_ambiguity_is_seen(self):
        upstream = Upstream()
        self.addCleanup(upstream.close)
        for shape, why in self.EXPECTED.items():
            with self.subTest(shape):
                self.assertEqual(outcome(upstream.port, upstream, SHAPES[shape])[1], why)


if __name__ == "__main__":
    unittest.main()
