"""`ClusterMetrics`: the Prometheus metrics of a node's part of a cluster. Values are read at each scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from streamcap.cluster.assignment.assigned_streams import AssignedStreams
from streamcap.cluster.assignment.nodes import NodeDirectory
from streamcap.cluster.assignment.registry import StreamRegistry
from streamcap.cluster.engines.dispatcher import Dispatcher
from streamcap.cluster.engines.engine_service import EngineService
from streamcap.cluster.gateway.gateway import Gateway
from streamcap.cluster.ingest import Ingest
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.log.live_feed import LiveFeed
from streamcap.cluster.recorder.recorder import Recorder


class ClusterMetrics:
    """Parts that a node lacks by its roles stay at zero."""

    def __init__(
        self,
        connection: Connection,
        registry: StreamRegistry,
        nodes: NodeDirectory,
        ingest: Ingest,
        live: LiveFeed,
        gateway: Gateway,
        recorder: Recorder | None,
    ) -> None:
        self._connection = connection
        self._registry = registry
        self._nodes = nodes
        self._ingest = ingest
        self._live = live
        self._gateway = gateway
        self._recorder = recorder
        self.engine: EngineService | None = None
        """Of a node with the role engine, once its models are loaded."""
        self.dispatcher: Dispatcher | None = None
        """Of a node that asks the engines of others."""

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        yield _gauge("connected", "1 while NATS can be reached.", self._connection.is_connected)
        yield _counter("reconnections", "Connections to NATS after the first.", self._connection.reconnections)
        yield _gauge("nodes", "Nodes that have reported within 6 s.", len(self._nodes.nodes))
        yield _gauge("streams", "Streams of the cluster.", len(self._registry.streams))
        yield from self._of_assignments()
        yield from self._of_writes()
        yield from self._of_gateway()
        yield from self._of_recorder()
        yield from self._of_dispatcher()
        yield from self._of_engine()

    def _of_assignments(self) -> Iterator[Metric]:
        owned = GaugeMetricFamily("streamcap_cluster_streams_owned", "Streams that this node has.", labels=("role",))
        takeovers = CounterMetricFamily(
            "streamcap_cluster_takeovers", "Streams that were assigned to this node.", labels=("role",)
        )
        lost = CounterMetricFamily(
            "streamcap_cluster_streams_lost",
            "Streams that another node took while this one had them.",
            labels=("role",),
        )
        waiting = GaugeMetricFamily(
            "streamcap_cluster_streams_waiting", "Streams of this site that no node has taken.", labels=("role",)
        )
        parts: list[tuple[str, AssignedStreams]] = [("ingest", self._ingest)]
        if self._recorder is not None:
            parts.append(("recorder", self._recorder))
        for role, part in parts:
            owned.add_metric((role,), len(part.owned))
            takeovers.add_metric((role,), part.takeovers)
            lost.add_metric((role,), part.lost)
            waiting.add_metric((role,), part.waiting)
        yield from (owned, takeovers, lost, waiting)

    def _of_writes(self) -> Iterator[Metric]:
        writes = self._ingest.writes
        yield _counter("writes_refused", "Writes to a log refused: another node owns the stream.", writes.refused)
        yield _counter("writes_repeated", "Writes to a log sent again: JetStream did not answer.", writes.repeated)
        yield HistogramMetricFamily(
            "streamcap_cluster_publish_seconds",
            "Time from a write to a log to JetStream's answer that it is stored.",
            buckets=writes.buckets(),
            sum_value=writes.seconds,
        )
        yield _gauge("finals_waiting", "Final captions that wait for JetStream.", self._ingest.finals_waiting)
        yield _gauge("longest_write_seconds", "Age of the oldest write without an answer.", self._ingest.longest_write)
        yield _counter(
            "interims_replaced", "Interims not sent: a newer one came, or NATS was away.", self._live.replaced
        )

    def _of_gateway(self) -> Iterator[Metric]:
        gateway = self._gateway
        yield _gauge("log_lag", "Stored messages that this gateway has not read yet.", gateway.lag)
        yield _counter("log_restarts", "How often the reader of the logs started again.", gateway.restarts)
        yield _counter("messages_skipped", "Messages that streamcap did not write.", gateway.skipped)
        yield _counter(
            "interims_dropped", "Interims of former owners, or that came too early.", gateway.interims_dropped
        )

    def _of_recorder(self) -> Iterator[Metric]:
        recorder = self._recorder
        if recorder is None:
            return
        yield _counter("recorded_finals", "Final captions written to files.", recorder.finals)
        yield _counter("recorder_read_again", "How often the disk was too slow for the log.", recorder.read_again)
        yield _counter(
            "recorder_messages_skipped", "Messages of the logs that streamcap did not write.", recorder.skipped
        )
        yield _gauge(
            "recorder_lag_seconds", "How long the oldest message has waited for the disk.", recorder.lag_seconds
        )

    def _of_dispatcher(self) -> Iterator[Metric]:
        dispatcher = self.dispatcher
        if dispatcher is None:
            return
        yield _gauge("engines", "Engines of other nodes that this node can ask.", len(dispatcher.engines))
        yield _gauge("samples_waiting", "Samples that wait for an engine of another node.", dispatcher.waiting)
        yield _gauge("samples_in_flight", "Samples that engines of other nodes have.", dispatcher.in_flight)
        yield _counter("samples_missed", "Samples replaced while no engine was there.", dispatcher.missed)
        yield _counter(
            "samples_resent", "Samples sent again: their engine died, refused or was silent.", dispatcher.resent
        )
        yield _counter("requests_given_up", "Samples that an engine has not answered in time.", dispatcher.given_up)
        yield _counter("answers_late", "Answers to samples that had been given up.", dispatcher.late)

    def _of_engine(self) -> Iterator[Metric]:
        engine = self.engine
        if engine is None:
            return
        yield _gauge("engine_credit", "Samples of other nodes that this engine takes now.", engine.free)
        yield _counter("engine_samples_refused", "Samples refused: more than the engine holds.", engine.refused)
        yield _counter("engine_messages_skipped", "Requests that streamcap did not write.", engine.skipped)
        yield _gauge(
            "engine_reference_bytes", "Images of last finals, for the change gate of other nodes' streams.",
            engine.references.bytes,
        )  # fmt: skip
        yield _counter(
            "engine_references_forgotten", "Streams whose images had no room: each costs a decode.",
            engine.references.forgotten,
        )  # fmt: skip


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"streamcap_cluster_{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"streamcap_cluster_{name}", text, value=value)
