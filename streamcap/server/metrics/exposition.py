"""The Prometheus text format, written fast: the event loop stands still meanwhile.

`prometheus_client` needs about 1 s for 256 streams on one core. Here the text before each value, which does not change,
is made once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import Metric


def render(families: Iterable[Metric]) -> Iterator[str]:
    """The lines of each family, each with its line end."""
    for family in families:
        yield from _header(f"{family.name}_total" if family.type == "counter" else family.name, family)
        for sample in family.samples:
            yield f"{_head(sample.name, sample.labels)}{_number(sample.value)}\n"


def escape(text: str) -> str:
    """`text` as it stands in the value of a label."""
    if "\\" in text or '"' in text or "\n" in text:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return text


class Series:
    """The samples of one name with labels.

    Parameters:
        kind: `counter`, whose samples are called NAME_total, or `gauge`.
    """

    def __init__(self, name: str, text: str, kind: str, labels: tuple[str, ...]) -> None:
        self._name = f"{name}_total" if kind == "counter" else name
        self._header = "".join(_header(self._name, Metric(name, text, kind)))
        self._labels = labels
        self._heads: dict[tuple[str, ...], str] = {}

    def render(self, values: Iterable[tuple[tuple[str, ...], float]]) -> Iterator[str]:
        """The lines of `values`: the texts of the labels, and the number."""
        yield self._header
        before, heads = self._heads, {}
        for texts, value in values:
            head = before.get(texts)
            if head is None:
                head = _head(self._name, dict(zip(self._labels, texts, strict=True)))
            heads[texts] = head
            yield f"{head}{_number(value)}\n"
        # Those of removed streams are forgotten.
        self._heads = heads


class Histograms:
    """Histograms of one name, one for each value of the two labels.

    Parameters:
        buckets: upper bounds, ascending, without infinity.
    """

    def __init__(self, name: str, text: str, labels: tuple[str, str], buckets: Sequence[float]) -> None:
        self._header = "".join(_header(name, Metric(name, text, "histogram")))
        self._name = name
        self._labels = labels
        self._buckets = tuple(buckets)
        self._counts: dict[str, dict[str, list[int]]] = {}
        self._sums: dict[tuple[str, str], float] = {}
        self._heads: dict[tuple[str, str], tuple[str, ...]] = {}
        self._texts: dict[tuple[str, str], str] = {}
        """The lines of each histogram that has not changed since they were made."""

    def observe(self, first: str, second: str, value: float) -> None:
        """Take `value` into the histogram of these labels."""
        several = self._counts.setdefault(first, {})
        counts = several.get(second)
        if counts is None:
            counts = several[second] = [0] * (len(self._buckets) + 1)
            self._heads[first, second] = self._make_heads(first, second)
        counts[bisect_left(self._buckets, value)] += 1
        self._sums[first, second] = self._sums.get((first, second), 0.0) + value
        self._texts.pop((first, second), None)

    def keep_only(self, firsts: Iterable[str]) -> None:
        """Forget the histograms with any other first label."""
        for gone in self._counts.keys() - set(firsts):
            for second in self._counts.pop(gone):
                del self._sums[gone, second], self._heads[gone, second]
                self._texts.pop((gone, second), None)

    def render(self) -> Iterator[str]:
        """The lines of all histograms."""
        yield self._header
        for first, several in self._counts.items():
            for second, counts in several.items():
                text = self._texts.get((first, second))
                if text is None:
                    text = self._texts[first, second] = self._lines(first, second, counts)
                yield text

    def _lines(self, first: str, second: str, counts: list[int]) -> str:
        *buckets, count, total = self._heads[first, second]
        seen = list(accumulate(counts))
        lines = [f"{head}{number}\n" for head, number in zip(buckets, seen, strict=True)]
        return "".join(lines) + f"{count}{seen[-1]}\n{total}{_number(self._sums[first, second])}\n"

    def _make_heads(self, first: str, second: str) -> tuple[str, ...]:
        """Of each bucket, then of the count and of the sum."""
        name, labels = self._name, dict(zip(self._labels, (first, second), strict=True))
        bounds = [*(_number(bound) for bound in self._buckets), "+Inf"]
        return (
            *(_head(f"{name}_bucket", {**labels, "le": bound}) for bound in bounds),
            _head(f"{name}_count", labels),
            _head(f"{name}_sum", labels),
        )


def _head(name: str, labels: Mapping[str, str]) -> str:
    """The line of a sample up to its value."""
    texts = ",".join(f'{label}="{escape(text)}"' for label, text in labels.items())
    return f"{name}{{{texts}}} " if texts else f"{name} "


def _header(name: str, family: Metric) -> tuple[str, str]:
    text = family.documentation.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {name} {text}\n", f"# TYPE {name} {family.type}\n"


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value) if type(value) is float else repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
