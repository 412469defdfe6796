"""Hostile requests with errors outside their fields: method, path, headers, length, chunks."""

import json
import random
from collections.abc import Callable

from tests.integration.serving.hostile_kinds import JSON, Hostile, fields
from tests.integration.serving.wire import request

BODY = b'{"seed": 3}'

ODD_HEADERS = (
    *(
        ("describe", "True"),
        ("explain", "True"),
        ("explain", "x"),
        ("url_path", "../../etc"),
        ("ts_stream_next", "true"),
    ),
    *(
        ("ts_request_sequence_id", "x"),
        ("ts_request_sequence_end", "true"),
        ("x-request-id", "1"),
        ("x-request-id", "é"),
    ),
    *(("x-request-id-prefix", "a" * 300), ("X-Model-Version", "x"), ("body", "x"), ("seed", "1"), ("Host", "y")),
    *(("Accept", "*/*;q=" + "9" * 200), ("Accept", "," * 900), ("Accept", "é/é"), ("Accept", "image/png;q=0")),
    *(("Accept", "image/*;" + " " * 3_000 + "q=0"), ("Accept", "text/html, " * 300), ("Accept", "image/webp")),
    *(("Content-Type", "é"), ("If-None-Match", "*"), ("If-None-Match", '"' * 3_000), ("Range", "bytes=0-1")),
    *(("Connection", "close"), ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("Upgrade", "websocket")),
    *(
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
        ("Expect", "100-continue"),
        ("Expect", "x"),
        ("Authorization", "Bearer x"),
    ),
    *(("a" * 7_000, "b"), ("a", "b" * 7_500), ("a", "b" * 9_000), ("Cookie", "a=" + "b" * 4_000)),
    *(("é", "b"), ("a b", "c"), ("", "c"), ("a\0", "b"), ("a", "\0"), ("a", "b\r\n c"), ("a", "b\nc: d")),
)


def _headers(rng: random.Random) -> Hostile:
    chosen = rng.sample(ODD_HEADERS, rng.randint(1, 4))
    if rng.random() < 0.1:
        chosen += [(f"x-{i}", "y") for i in range(rng.choice((100, 500, 2_000)))]
    return Hostile("headers", request(body=BODY, headers=[JSON, *chosen]))


LENGTHS = ("-1", "+5", "0x10", "1e3", "x", " ", "5, 5", "9" * 20, str(2**31), str(2**63), "2000000", "1", "")


def _lengths(rng: random.Random) -> Hostile:
    body = json.dumps(fields(rng)).encode()
    length = rng.choice((*LENGTHS, *(str(len(body) + extra) for extra in (1, 1_000, -1))))
    second = [("Content-Length", str(len(body)))] if rng.random() < 0.2 else []
    return Hostile("lengths", request(body=body, headers=[JSON, *second], length=length), needs_reply=False)


def _chunks(rng: random.Random) -> Hostile:
    body = json.dumps(fields(rng)).encode()
    size = b"%x" % len(body)
    small = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    extended = size + b";a=b\r\n" + body + b"\r\n0\r\nX: y\r\n\r\n"
    headers = [JSON, ("Transfer-Encoding", "chunked")]
    return Hostile("chunks", request(headers=headers, length="") + rng.choice((small, extended)))


SIZES = (b"x", b"-1", b"ffffffffffffffff", b"7fffffff", b"1", b"0" * 9_000, b"")
CODINGS = ("chunked", "chunked", "chunked", "gzip, chunked", "chunked, chunked", "x", "identity", "chunked\t")


def _bad_chunks(rng: random.Random) -> Hostile:
    body = json.dumps(fields(rng)).encode()
    size = b"%x" % len(body)
    unterminated = (size + b"\r\n" + body, size + b"\r\n" + body + b"\r\n0\r\n", size + b"\n" + body + b"\n0\n\n")
    sent = rng.choice((rng.choice(SIZES) + b"\r\n" + body, rng.choice(unterminated)))
    headers = [JSON, ("Transfer-Encoding", rng.choice(CODINGS))]
    return Hostile("bad chunks", request(headers=headers, length=rng.choice(("", "5"))) + sent, needs_reply=False)


VERBS = (
    *("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "PROPFIND", "PRI", "get", "X" * 2_000),
    *("é", "G\0T", "", " "),
)


def _verbs(rng: random.Random) -> Hostile:
    return Hostile("verbs", request(rng.choice(VERBS), body=BODY, headers=[JSON]))


ROOTS = (
    *("/predictions/digits", "/explanations/digits", "/digits/predict", "/models/digits/invoke", "/invocations"),
    *("/v1/models/digits:predict", "/v2/models/digits/infer", "/predictions", "/wfpredict/x"),
    *("http://x/predictions/digits", "*"),
)
TAILS = (
    *("", "/", "//", "/1.0", "/1.0/", "/9.9", "/1.0/a/b/c", "/../..", "/..%2f..", ";a=b", "?seed=1", "#x", "%64"),
    *("/predict", ":predict", "/invoke", "/infer", "/explain", "/%00", "/%", "/%zz", "/é"),
    *("/" + "a" * 3_000, "/" * 3_000, "/1.0/" + "x/" * 500),
)


def _paths(rng: random.Random) -> Hostile:
    return Hostile("paths", request("POST", rng.choice(ROOTS) + rng.choice(TAILS), BODY, [JSON]))


KINDS: tuple[Callable[[random.Random], Hostile], ...] = (*(_headers, _lengths, _chunks, _bad_chunks, _verbs, _paths),)
