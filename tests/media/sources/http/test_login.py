"""The examples of RFC 7616, section 3.9.1."""

from __future__ import annotations

import hashlib

import pytest

from streamcap.media.sources.http.login import HttpLogin

NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
OWN = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
FIELDS = f'realm="http-auth@example.org", qop="auth, auth-int", nonce="{NONCE}", opaque="FQhe/qaU925kfnzjCev0ciny7QMk"'


def digest(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def login() -> HttpLogin:
    return HttpLogin("Mufasa", "Circle of Life", make_nonce=lambda: OWN)


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_digest_header_is_that_of_the_rfc(algorithm: str, response: str) -> None:
    http_login = login()
    assert http_login.answer([f"Digest {FIELDS}, algorithm={algorithm}"])
    header = http_login.header("GET", "/dir/index.html")
    assert header is not None
    assert f'response="{response}"' in header
    assert "nc=00000001" in header
    assert "nc=00000002" in (http_login.header("GET", "/dir/index.html") or "")


def test_answer_takes_the_strongest_of_one_line_or_several() -> None:
    for challenges in (
        [f"Digest {FIELDS}, algorithm=MD5", f"Digest {FIELDS}, algorithm=SHA-256", 'Basic realm="x"'],
        [f'Basic realm="x", Digest {FIELDS}, algorithm=MD5, Digest {FIELDS}, algorithm=SHA-256'],
    ):
        http_login = login()
        assert http_login.answer(challenges)
        assert "algorithm=SHA-256" in (http_login.header("GET", "/") or "")


def test_answer_knows_basic_and_refuses_others() -> None:
    http_login = login()
    assert http_login.header("GET", "/") is None
    assert http_login.answer(['Basic realm="camera"'])
    assert http_login.header("GET", "/") == "Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl"
    assert not login().answer(['Negotiate, Digest realm="x", nonce="y", algorithm=SHA-512-256'])


def test_realm_that_is_not_utf8() -> None:
    """RTSP: the bytes of a header are kept as surrogates."""
    login = HttpLogin("user", "password", make_nonce=lambda: "0")
    assert login.answer(['Digest realm="caf\udce9", nonce="1"'])
    header = login.header("DESCRIBE", "rtsp://camera/")
    assert header is not None and 'realm="caf\udce9"' in header
    first, second = digest(b"user:caf\xe9:password"), digest(b"DESCRIBE:rtsp://camera/")
    assert digest(f"{first}:1:{second}".encode()) in header
