"""Our text format against prometheus_client's."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from streamcap.server.metrics.exposition import Histograms, Series, render

BUCKETS = (0.001, 0.01, 1.0, 10.0)


def parsed(text: str) -> dict[tuple[str, str, str, str], float]:
    return {
        (family.type, family.documentation, sample.name, str(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


class Families(Collector):
    def collect(self) -> Iterator[Metric]:
        counter = CounterMetricFamily("cap_frames", "Frames: a \\ and\nmore.", labels=("stream", "kind"))
        counter.add_metric(("door", 'a "b" \\ c\nd'), 12_345_678_901)
        counter.add_metric(("y", ""), 0.1)
        yield counter
        yield GaugeMetricFamily("cap_ready", "1 or 0.", value=1.0)
        gauge = GaugeMetricFamily("cap_odd", "Odd values.", labels=("kind",))
        gauge.add_metric(("inf",), math.inf)
        gauge.add_metric(("-inf",), -math.inf)
        yield gauge


def test_families_read_as_those_of_prometheus_client() -> None:
    registry = CollectorRegistry()
    registry.register(Families())
    ours = "".join(render(Families().collect()))
    assert parsed(ours) == parsed(generate_latest(registry).decode())
    assert len(parsed(ours)) == 5


def test_histograms_read_as_those_of_prometheus_client() -> None:
    registry = CollectorRegistry()
    theirs = Histogram("cap_seconds", "Time.", ("stream", "stage"), buckets=BUCKETS, registry=registry)
    ours = Histograms("cap_seconds", "Time.", ("stream", "stage"), BUCKETS)
    rng = random.Random(1)
    for value in (*BUCKETS, 0.0, 99.0, *(10 ** rng.uniform(-4, 2) for _ in range(200))):
        labels = rng.choice(("door", 'y"ard')), rng.choice(("decode", "total"))
        theirs.labels(*labels).observe(value)
        ours.observe(*labels, value)
    assert parsed("".join(ours.render())) == parsed(generate_latest(registry).decode())
    ours.keep_only(["door"])
    theirs.remove('y"ard', "decode")
    theirs.remove('y"ard', "total")
    assert parsed("".join(ours.render())) == parsed(generate_latest(registry).decode())
    for labels in (("door", "total"), ('y"ard', "total")):  # one that was shown, and one that was forgotten
        theirs.labels(*labels).observe(0.5)
        ours.observe(*labels, 0.5)
    assert parsed("".join(ours.render())) == parsed(generate_latest(registry).decode())


def test_series_read_as_those_of_prometheus_client() -> None:
    counter = CounterMetricFamily("cap_frames", "Frames: a \\ and\nmore.", labels=("stream", "kind"))
    gauge = GaugeMetricFamily("cap_lag", "Lag.", labels=("stream",))
    ours = Series(counter.name, counter.documentation, "counter", ("stream", "kind"))
    lags = Series(gauge.name, gauge.documentation, "gauge", ("stream",))
    values = [(("door", 'a "b" \\ c\nd'), 12_345_678_901), (("y", ""), 0.1)]
    for labels, value in values:
        counter.add_metric(labels, value)
    gauge.add_metric(("door",), math.inf)
    expected = parsed("".join(render([counter, gauge])))
    for _ in range(2):  # the second time from the texts that were kept
        text = "".join((*ours.render(values), *lags.render([(("door",), math.inf)])))
        assert parsed(text) == expected
    assert parsed("".join(ours.render(values[:1]))).keys() < expected.keys()
    assert len(ours._heads) == 1  # a removed stream leaves nothing behind
