"""Hostile requests with errors in their fields: JSON, queries and forms."""

import gzip
import json
import random
from collections.abc import Callable
from typing import Any

from tests.integration.serving.hostile_kinds import FIELDS, JSON, Hostile, fields
from tests.integration.serving.wire import request

LETTERS = "017aé\0\n一😀\ud800"
NUMBERS: tuple[float, ...] = (2**53, -(2**63), 10**19, 10**400, 1e308, -0.0, 5e-324)


def _value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(6 if depth > 2 else 8)
    if kind == 6:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(5))]
    if kind == 7:
        return {rng.choice(FIELDS): _value(rng, depth + 1) for _ in range(rng.randrange(4))}
    text = "".join(rng.choices(LETTERS, k=rng.randrange(9)))
    return (None, rng.random() < 0.5, rng.randint(-3, 300), rng.uniform(-2, 20), text, rng.choice(NUMBERS))[kind]


def _wrong_types(rng: random.Random) -> Hostile:
    body = {rng.choice((*FIELDS, "other", "", "\ud800", "é")): _value(rng) for _ in range(rng.randint(1, 5))}
    return Hostile("wrong types", request(body=json.dumps(body).encode(), headers=[JSON]))


WRONG_JSON = (
    *(
        '{"seed": 1',
        "{'seed': 1}",
        '{"seed": 01}',
        '{"seed": +1}',
        '{"seed": 1,}',
        "{seed: 1}",
        '{"seed": 1} {}',
        "{}{}",
    ),
    *("null", "7", '"x"', " ", "\0", "//", "[]", '{"text": "\\ud800"}', '{"text": "\\u00"}', '{"text": "1\n"}'),
    '{"seed": 1, ' * 500 + '"seed": 2' + "}" * 500,
    "{" + ",".join(f'"u{i}": {i}' for i in range(5_000)) + "}",
    '{"digits": [' + "1," * 30_000 + "1]}",
)


def _raw_json(rng: random.Random) -> Hostile:
    depth = rng.choice((10, 900, 1_100, 20_000, 100_000))
    nines = "9" * rng.choice((20, 400, 4_000, 5_000, 60_000))
    values = (nines, f"-{nines}", f"1e{nines}", f"-1e-{nines}", f"0.{nines}", "NaN", "-Infinity", "[Infinity]")
    field = rng.choice(FIELDS)
    nested = ("[" * depth, "[" * depth + "]" * depth, '{"a":' * depth, '{"a":' * depth + "1" + "}" * depth)
    numbers = [f'{{"{field}": {value}}}' for value in (*values, f'1, "{field}": 2')]
    body = rng.choice((rng.choice(WRONG_JSON), rng.choice(nested), rng.choice(numbers)))
    return Hostile("raw JSON", request(body=body.encode(), headers=[JSON]))


TYPES = (
    *("application/json", "application/json; charset=utf-16", "text/plain", "application/octet-stream"),
    *("application/grpc", "a/b; charset=x", "*/*", ";", "/", "", "é"),
)


def _encodings(rng: random.Random) -> Hostile:
    text = json.dumps(fields(rng))
    encoded = [text.encode(name) for name in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp500")]
    broken = (b"\xff\xfe\xfd", b'{"text": "\xc3\x28"}', b"\x80" * 100, rng.randbytes(rng.randrange(300)))
    headers = [("Content-Type", rng.choice(TYPES))]
    if rng.random() < 0.5:
        headers.append(("Content-Encoding", rng.choice(("gzip", "deflate", "br", "x", "gzip, gzip"))))
    body = rng.choice((*encoded, *broken, gzip.compress(text.encode())))
    return Hostile("encodings", request(body=body, headers=headers))


NAMES = (*FIELDS, *FIELDS, "body", "", "%", "%zz", "a[]", "Accept", "content-type", "é", "x" * 2_000)
TEXTS = (
    *("1", "7", "", "+", "a=b", "é", "1,2,3", "1e999", "nan", "1" * 3_000),
    *("%", "%2", "%zz", "%ff", "%00", "%C3%A9", "%F0%9F"),
)


def _pairs(rng: random.Random) -> str:
    pairs = [
        f"{rng.choice(NAMES)}{rng.choice(('=', '=', '=', '', '=='))}{rng.choice(TEXTS)}"
        for _ in range(rng.randint(1, 4))
    ]
    return rng.choice(("&", "&", "&", ";", "&&", "?")).join(pairs)


def _queries(rng: random.Random) -> Hostile:
    path = rng.choice(("/digits/predict", "/models/digits/invoke", "/predictions/digits", "/invocations"))
    body = rng.choice((b"", b"", b'{"seed": 3}'))
    return Hostile("queries", request("GET", f"{path}?{_pairs(rng)}", body, [JSON]))


def _forms(rng: random.Random) -> Hostile:
    kind = "application/x-www-form-urlencoded"
    headers = [("Content-Type", rng.choice((kind, kind.upper(), f"{kind}; charset=x", f"{kind}; charset=utf-16")))]
    path = rng.choice(("/predictions/digits", "/digits/predict?seed=1"))
    return Hostile("forms", request("POST", path, _pairs(rng).encode("latin-1"), headers))


BOUNDARIES = ("x", "x", "x", "", "-" * 100, "é", '"x"', "x y")
MULTIPART = (
    *("multipart/form-data; boundary={}", "multipart/form-data; boundary={}; charset=x"),
    *("multipart/form-data", "multipart/mixed; boundary={}"),
)
DISPOSITIONS = (
    *('form-data; name="seed"', "form-data; name=seed", "form-data", "", 'x; name="seed"', 'form-data; name="'),
    *('form-data; name=""', 'form-data; name="é"', 'form-data; name="' + "n" * 1_000 + '"'),
    *('form-data; name="seed"; filename="a"', 'form-data; name="seed"; filename="../../a"'),
    *("form-data; name=seed; filename*=UTF-8''%zz", "form-data; name=seed; filename*=x"),
)
PART_HEADERS = (
    *("", "", "", "a\r\n", "Content-Length: 99\r\n", "Content-Type: text/plain; charset=x\r\n"),
    *("Content-Type: multipart/mixed; boundary=y\r\n", "Content-Type: multipart/mixed\r\n"),
    *("Content-Transfer-Encoding: base64\r\n", "Content-Transfer-Encoding: x\r\n"),
)


def _multipart(rng: random.Random) -> Hostile:
    boundary, value = rng.choice(BOUNDARIES), rng.choice(("1", "", "é", "x" * 70_000))
    head = f"Content-Disposition: {rng.choice(DISPOSITIONS)}\r\n{rng.choice(PART_HEADERS)}"
    end = rng.choice((f"--{boundary}--\r\n", f"--{boundary}--", "", "--"))
    body = f"--{boundary}\r\n{head}\r\n{value}\r\n" * rng.choice((1, 1, 2, 30)) + end
    headers = [("Content-Type", rng.choice(MULTIPART).format(boundary))]
    return Hostile("multipart", request(body=body.encode(), headers=headers))


KINDS: tuple[Callable[[random.Random], Hostile], ...] = (
    *(_wrong_types, _raw_json, _encodings, _queries, _forms, _multipart),
)
