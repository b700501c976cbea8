from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcap.redact import redact, redact_key
from tests.addresses import MAKERS, addresses

ADDRESSES = addresses()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:hunter2@10.0.0.5:554/live", "rtsp://admin:***@10.0.0.5:554/live"),
        ("rtsp://admin:p@ss:w@rd@cam/live", "rtsp://admin:***@cam/live"),
        ("rtsp://admin@cam/live", "rtsp://admin:***@cam/live"),
        ("http://cam/x?token=abc&size=3", "http://cam/x?token=***&size=3~"),
        ("srt://cam:9000?mode=caller&passphrase=secret", "srt://cam:9000?mode=caller&passphrase=***~"),
        ("cannot open 'rtsp://admin:b@c/live': 401", "cannot open 'rtsp://admin:***@c/live': 401"),
        ("a dog at 5:30 @ home", "a dog at 5:30 @ home"),
        ("scenes:?seed=3", "scenes:?seed=3"),
        ("rtsp://admin:a/b#c?d@cam/live lost", "rtsp://admin:***@cam/live lost"),
        ("http://cam:8080/@me/1", "http://cam:8080/@***/1~"),
        ("http://cam:80 and mail me@host", "http://cam:80 and mail me@host"),
        ("rtsp:/admin:hunter2@cam/x", "rtsp:***"),
        ('{"url":"rtsp://cam/p9x8","every":1}', '{"url":"rtsp://cam/***~","every":1}'),
        ("GET /captions?%74oken=abc&stream=door HTTP/1.1", "GET /captions?%74oken=***&stream=door HTTP/1.1"),
        ("it said user=admin_password=xy12_channel=1", "it said user=***"),
        ("Authorization: Basic YWRtaW46aHVudGVyMg==", "Authorization: Basic ***"),
        ("http://cam:81/video.mjpg: 401", "http://cam:81/video.mjpg: 401"),
        (
            "rtsp://cam/user=admin_password=xy12_channel=1_stream=0.sdp",
            "rtsp://cam/user=***_password=***_channel=1_stream=0.sdp~",
        ),
    ],
)
def test_redact_hides_secrets_and_keeps_the_rest(text: str, shown: str) -> None:
    out = redact(text)
    before, mark, after = shown.partition("~")
    assert out.startswith(before)
    assert out.endswith(after)
    assert len(out) == len(shown) + 6 * len(mark)


def test_addresses_are_of_many_makers() -> None:
    assert len(MAKERS) == 52
    assert len({address for address, _ in ADDRESSES}) == 260


@pytest.mark.parametrize(("address", "secrets"), ADDRESSES)
def test_redact_shows_no_secret_of_a_camera(address: str, secrets: list[str]) -> None:
    for text in (address, f"cannot open '{address}': 401", f'{{"url": "{address}"}}', f"({address}), retrying"):
        shown = redact(text)
        for secret in secrets:
            assert secret not in shown
            assert secret[:6] not in shown
        assert redact(shown) == shown


def test_redact_keeps_different_addresses_different() -> None:
    assert len({redact(address) for address, _ in ADDRESSES}) == 260
    assert redact("http://cam/live?token=a") != redact("http://cam/live?token=b")
    assert redact("rtsp://one:x@cam/live") != redact("rtsp://two:x@cam/live")


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://10.0.0.2:554/Streaming/Channels/101",
        "rtsp://10.0.0.2/cam/realmonitor?channel=1&subtype=0",
        "rtsp://10.0.0.2/axis-media/media.amp?videocodec=h264&resolution=1280x720",
        "rtsp://10.0.0.2/h264Preview_01_main",
        "rtsp://[fe80::1]:554/live/ch0",
        "http://10.0.0.2/cgi-bin/snapshot.cgi?channel=1",
        "http://10.0.0.2/live/master.m3u8",
        "srt://10.0.0.2:9000?mode=listener",
    ],
)
def test_redact_shows_harmless_addresses_whole(address: str) -> None:
    assert redact(address) == address


PASSWORD = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6)


@given(PASSWORD)
def test_redact_hides_any_password(password: str) -> None:
    secret = f"§{password}§"
    assert secret not in redact(f"lost rtsp://admin:{secret}@cam/live: timed out")


@given(st.text(st.sampled_from("a1:/@?#&=_%.~*-'\" ")))
def test_redact_twice_changes_nothing(rest: str) -> None:
    once = redact(f"rtsp://cam/{rest}")
    assert redact(once) == once


@pytest.mark.parametrize("piece", ["a", "://", "a://", "a=", "'", ")", "&", "%", "/", "a:b@", "~", "x=_"])
def test_redact_takes_linear_time(piece: str) -> None:
    began = time.process_time()
    redact("rtsp://cam/" + piece * 20_000)
    redact(piece * 20_000)
    assert time.process_time() - began < 2.0


def test_redact_key_knows_encoded_names() -> None:
    assert all(redact_key(name) for name in ("token", "%74oken", "%2574oken", "Authorization", "pwd", "authToken"))
    assert not any(redact_key(name) for name in ("stream", "since", "interim", "limit"))
