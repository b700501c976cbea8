"""`python -m tests.chaos.memory_probe serve …`: the command with the fake model, which tells what its memory holds.

A connection to the loopback port STREAMCAP_PROBE_PORT gets one JSON object, and is closed.
"""

from __future__ import annotations

import collections
import ctypes
import gc
import json
import os
import socket
import sys
import threading
from dataclasses import dataclass

from streamcap.cli import main
from streamcap.service import models
from testbed.fake_model import load


@dataclass(frozen=True)
class Memory:
    """What is allocated after all reference cycles are collected."""

    objects: dict[str, int]
    """Number of objects of each type that the garbage collector knows."""
    blocks: int
    """Of Python's allocator."""
    malloc_bytes: int
    """Given out by malloc in all its heaps, and not freed: of libraries, and large ones of Python."""


def ask_memory(port: int) -> Memory:
    """The memory of the service with the probe at `port`."""
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile() as answer:
        return Memory(**json.load(answer))


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks")),
        *((name, ctypes.c_size_t) for name in ("fsmblks", "uordblks", "fordblks", "keepcost")),
    )


def _measure() -> Memory:
    for _ in range(3):  # finalizers of a cycle may free another one
        gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    blocks, info = sys.getallocatedblocks(), mallinfo()
    objects = collections.Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    return Memory(dict(objects), blocks, info.uordblks + info.hblkhd)


def _answer(listener: socket.socket) -> None:
    while True:  # as long as the service
        connection, _ = listener.accept()
        with connection:
            connection.sendall(json.dumps(vars(_measure())).encode())


if __name__ == "__main__":
    probe = socket.create_server(("127.0.0.1", int(os.environ["STREAMCAP_PROBE_PORT"])))
    threading.Thread(target=_answer, args=(probe,), daemon=True).start()
    models.load_model = load  # type: ignore[assignment]
    main()
