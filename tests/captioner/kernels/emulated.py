"""Kernels of another architecture behind the interface of a loaded library: each call runs under qemu-user."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from pathlib import Path
from typing import Any

from streamcap.captioner.kernels import build, packed

DRIVER = Path(__file__).with_name("emulated.c")


def compile_emulated(compiler: str, target: Path, precision: str, *flags: str) -> None:
    """A static program for qemu with the kernels' sources, compiled with the flags of a library."""
    sources = [*(str(build.KERNELS / name) for name in build.SOURCES[precision]), str(DRIVER)]
    command = [compiler, *build.FLAGS, *build.OPTIONS[precision], *flags, "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-static", *sources, "-o", str(target), "-lm"], check=True, timeout=300)


class EmulatedLibrary:
    """`streamcap_linear` and `streamcap_layers` as `ctypes.CDLL` has them."""

    def __init__(self, command: list[str], precision: str) -> None:
        self._command = command
        self._weight_bytes, self._value_bytes = (1, 2) if precision == "int8" else (4, 4)

    def streamcap_linear(
        self, linear: Any, following: Any, weight: Any, shift: Any, epsilon: ctypes.c_float, x: Any, rows: int,
        floats: Any, values: Any, threads: int, out: Any,
    ) -> None:  # fmt: skip
        one = linear._obj
        regions = _Regions()
        regions.add_struct(one)
        self._add_linear(regions, one)
        for norm in (weight, shift):
            regions.add(norm, 4 * one.inputs)
        regions.add(x, 4 * rows * one.inputs)
        regions.add(floats, 4 * threads * rows)
        regions.add(values, self._scratch_bytes(rows, threads, one.inputs))
        regions.add(out, 4 * rows * one.outputs, is_changed=True)
        # The following layer is only prefetched.
        (bits,) = struct.unpack("<i", struct.pack("<f", epsilon.value))
        arguments = [_address(linear), 0, _address(weight), _address(shift), bits, _address(x), rows,
                     _address(floats), _address(values), threads, _address(out)]  # fmt: skip
        self._call(0, regions, arguments)

    def streamcap_layers(
        self, fused: Any, args: Any, x: Any, floats: Any, values: Any, threads: int, own: ctypes.c_int64
    ) -> None:
        layers, attention = fused._obj, args._obj
        regions = _Regions()
        copy = packed._FusedLayers.from_buffer_copy(layers)
        copy.after = None  # only prefetched
        regions.add_struct(copy, at=ctypes.addressof(layers))
        regions.add_struct(attention)
        count = attention.rows * attention.steps
        first = layers.layers[0]
        width, inner = first.proj.outputs, first.fc1.outputs
        array = ctypes.cast(layers.layers, ctypes.POINTER(packed._Layer * layers.count)).contents
        regions.add_struct(array)
        for layer in array:
            for norm in (layer.norm_1, layer.shift_1, layer.norm_2, layer.shift_2):
                regions.add(norm, 4 * width)
            for linear in (layer.qkv, layer.proj, layer.fc1, layer.fc2):
                self._add_linear(regions, linear)
        if attention.keys:
            cache = attention.layer * (layers.count - 1) + attention.row * attention.rows
            for tensor in (attention.keys, attention.values):
                regions.add(tensor, 4 * cache, is_changed=True)
        regions.add(attention.positions, 8 * attention.rows)
        regions.add(attention.output_steps, 8 * attention.rows * attention.num_outputs)
        regions.add(x, 4 * count * width, is_changed=True)
        regions.add(floats, 4 * (count * (3 * width + inner + threads) + threads * own.value))
        regions.add(values, self._scratch_bytes(count, threads, inner))
        arguments = [_address(item) for item in (fused, args, x, floats, values)]
        self._call(1, regions, [*arguments, threads, own.value])

    def _add_linear(self, regions: _Regions, linear: Any) -> None:
        outputs = -(-linear.outputs // packed._PANEL) * packed._PANEL
        regions.add(linear.qweight, self._weight_bytes * linear.inputs * outputs)
        for tensor in (linear.scales, linear.bias, linear.offsets):
            regions.add(tensor, 4 * outputs)

    def _scratch_bytes(self, rows: int, threads: int, width: int) -> int:
        return self._value_bytes * packed._num_row_copies(rows, threads) * (width + packed.ROW_PAD)

    def _call(self, function: int, regions: _Regions, arguments: list[int]) -> None:
        message = struct.pack("<ii", function, len(regions.all)) + b"".join(regions.all)
        message += struct.pack("<12q", *arguments, *[0] * (12 - len(arguments)))
        done = subprocess.run(self._command, input=message, capture_output=True, check=False, timeout=300)
        assert done.returncode == 0, (done.returncode, done.stderr)
        assert len(done.stdout) == sum(size for _, size in regions.changed)
        begin = 0
        for address, size in regions.changed:
            ctypes.memmove(address, done.stdout[begin : begin + size], size)
            begin += size


class _Regions:
    """The memory that a call uses."""

    def __init__(self) -> None:
        self.all: list[bytes] = []
        self.changed: list[tuple[int, int]] = []

    def add(self, pointer: Any, size: int, *, is_changed: bool = False) -> None:
        address = _address(pointer)
        if address and size:
            self.all.append(struct.pack("<QQii", address, size, 0, is_changed) + ctypes.string_at(address, size))
            if is_changed:
                self.changed.append((address, size))

    def add_struct(self, value: Any, at: int = 0) -> None:
        data = bytes(value)
        self.all.append(struct.pack("<QQii", at or ctypes.addressof(value), len(data), 1, 0) + data)


def _address(pointer: Any) -> int:
    if pointer is None or isinstance(pointer, int):
        return pointer or 0
    return int(pointer.value or 0) if isinstance(pointer, ctypes.c_void_p) else ctypes.addressof(pointer._obj)
