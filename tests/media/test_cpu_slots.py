"""Threads of many cameras share the cores."""

from __future__ import annotations

import contextlib
import io
import threading

import av
import pytest

from streamcap.media import cpu_slots
from streamcap.media.cpu_slots import cpu_slot
from streamcap.media.demand import FrameDemand
from streamcap.media.sources.decoding.decode_policy import DecodePolicy
from streamcap.media.sources.decoding.selective_decoder import SelectiveDecoder
from testbed.timeouts import TIMEOUT_FACTOR
from tests.media.sources.decoding.test_selective_decoder import film


def test_decoding_waits_while_all_slots_are_taken() -> None:
    decoder = SelectiveDecoder(DecodePolicy(FrameDemand(decode="all")), lambda packet, error: pytest.fail(str(error)))
    container = av.open(io.BytesIO(film("plain")))
    packet = next(container.demux(container.streams.video[0]))
    done = threading.Event()

    def decode() -> None:
        decoder.decode(packet)
        done.set()

    thread = threading.Thread(target=decode)
    with contextlib.ExitStack() as slots:
        for _ in range(cpu_slots._CORES):
            slots.enter_context(cpu_slot)
        thread.start()
        assert not done.wait(0.2)
    assert done.wait(TIMEOUT_FACTOR)
    thread.join()
    container.close()
