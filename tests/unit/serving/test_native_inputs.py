"""Queries and forms become the handler's inputs, or an error that says what to write."""

import pytest

from ganctl.serving.hosts.native.inputs import FORM, InputError, read_inputs

PART = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n%s\r\n%s\r\n'


def multipart(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--x--\r\n"


@pytest.mark.parametrize(
    ("query", "inputs"),
    [
        (b"", {}),
        (b"seed=3&scale=2", {"seed": b"3", "scale": b"2"}),
        (b"digits=1&digits=2;digits=3", {"digits": [b"1", b"2", b"3"]}),
        (b"labels=a%2Cb%3Bc&text=a+b%20c", {"labels": b"a,b;c", "text": b"a b c"}),
        (b"labels=caf%C3%A9&%C3%A9=x", {"labels": "café".encode(), "é": b"x"}),
        (b"text=a=b&&count=", {"text": b"a=b", "count": b""}),
        (b"seed", {}),  # no field: it has no =
        (b"text=%FF", {"text": b"\xff"}),
    ],
)
def test_a_query_and_a_form_have_the_same_fields(query: bytes, inputs: dict[str, object]) -> None:
    assert read_inputs(query, "", b"") == inputs
    assert read_inputs(b"", f"{FORM}; charset=utf-8", query) == inputs
    assert read_inputs(b"", FORM.upper(), query) == inputs


def test_fields_of_the_query_and_of_a_form_are_collected() -> None:
    assert read_inputs(b"seed=1", FORM, b"seed=2&scale=3") == {"seed": [b"1", b"2"], "scale": b"3"}


@pytest.mark.parametrize("media", ["application/json", "text/plain", "", "application/x-www-form-urlencoded2", "é"])
def test_any_other_body_is_the_input_body(media: str) -> None:
    assert read_inputs(b"seed=1", media, b"\0 {") == {"seed": b"1", "body": b"\0 {"}


def test_a_multipart_form_has_a_field_for_each_part() -> None:
    body = multipart(
        PART % (b"seed", b"", b"5"),
        PART % (b"labels", b"Content-Type: text/plain\r\n", b"a\r\nb"),
        PART % (b"labels", b"", "é".encode()),
        PART % (b"count", b"", b""),
    )
    inputs = {"seed": b"5", "labels": [b"a\r\nb", "é".encode()], "count": b""}
    assert read_inputs(b"", "multipart/form-data; boundary=x", body) == inputs
    assert read_inputs(b"", 'Multipart/Form-Data; charset=utf-8; boundary="x"', body) == inputs


@pytest.mark.parametrize("text", [b"seed=%", b"seed=%2", b"seed=%zz", b"%g0=1", b"a=1&b=%4"])
def test_a_bad_percent_encoding_is_named(text: bytes) -> None:
    for arguments in ((text, "", b""), (b"", FORM, text)):
        with pytest.raises(InputError, match=r"found '%.{0,2}', .*%25"):
            read_inputs(*arguments)


@pytest.mark.parametrize("text", [b"=1", b"seed=1&=2"])
def test_a_value_without_a_name_is_refused(text: bytes) -> None:
    with pytest.raises(InputError, match="without a name"):
        read_inputs(text, "", b"")


@pytest.mark.parametrize(
    ("media", "body"),
    [
        ("multipart/form-data", multipart(PART % (b"seed", b"", b"5"))),  # no boundary
        ("multipart/form-data; boundary=", multipart(PART % (b"seed", b"", b"5"))),
        ("multipart/form-data; boundary=y", multipart(PART % (b"seed", b"", b"5"))),  # another one
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", PART % (b"seed", b"", b"5")),  # no end
        ("multipart/form-data; boundary=x", multipart(PART % (b"", b"", b"5"))),
        ("multipart/form-data; boundary=x", multipart(b"--x\r\n\r\n5\r\n")),
        ("multipart/form-data; boundary=x", multipart(b"--x\r\nContent-Disposition: attachment; name=a\r\n\r\n5\r\n")),
        ("multipart/form-data; boundary=x", multipart(PART % (b"a", b"Content-Type: multipart/mixed\r\n", b"5"))),
    ],
)
def test_a_malformed_multipart_form_is_refused(media: str, body: bytes) -> None:
    with pytest.raises(InputError, match="the form: "):
        read_inputs(b"", media, body)
