"""Metrics in Prometheus format, and the OpenAPI document."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamcap.captioner.decoding.drafts import DraftStatistics
from streamcap.captions.event import StreamState
from streamcap.engine.statistics import ModelStatistics
from streamcap.streams.overload import OverloadDetector, StreamLoad
from tests.server.conftest import Server, receive


async def scrape(server: Server) -> dict[tuple[str, str], float]:
    answer = await server.http.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_metrics_report_events(server: Server) -> None:
    door = server.streams.get("door")
    door.status(StreamState.LIVE)
    viewer = await server.viewer("?stream=door")
    door.final("a man")
    await receive(viewer, 3)
    server.streams.engine.models["mini"] = ModelStatistics(decode_skipped=3)
    server.streams.engine.superseded["door"] = 2
    values = await scrape(server)
    assert values["streamcap_frames_total", "stream=door"] == 100
    lost = [
        values[f"streamcap_{what}_total", "stream=door"]
        for what in ("samples_missed", "frame_conversion_errors", "files_dropped")
    ]
    assert lost == [4, 3, 2]
    assert values["streamcap_stream_state", "state=live,stream=door"] == 1
    assert values["streamcap_stream_state", "state=failed,stream=door"] == 0
    assert values["streamcap_source_events_total", "kind=decode_errors,stream=door"] == 2
    assert values["streamcap_model_info", "model=mini"] == 1
    assert values["streamcap_engine_decode_skipped_total", ""] == 3
    assert values["streamcap_engine_dropped_total", "reason=superseded,stream=door"] == 2
    assert values["streamcap_caption_latency_seconds_count", "stage=total,stream=door"] == 1
    assert values["streamcap_caption_latency_seconds_bucket", "le=0.01,stage=total,stream=door"] == 1
    assert values["streamcap_feed_subscribers", ""] == 1
    assert values["streamcap_whep_sessions", ""] == values["streamcap_whip_sessions", ""] == 0
    assert values["streamcap_messages_sent_total", ""] == 3

    await server.streams.remove("door")
    assert not [labels for _, labels in await scrape(server) if "stream=door" in labels]


async def test_metrics_report_overload(server: Server) -> None:
    door = server.streams.get("door")
    door.lag = 12.5
    assert (await server.http.get("/readyz")).text == "ready\n"
    clock = [0.0]
    server.streams.overload = OverloadDetector(lambda: clock[0])
    for second in range(10):
        clock[0] = float(second)
        server.streams.overload.update([StreamLoad(1.0, 12.5), StreamLoad(1.0, 0.1)])
    server.streams.loop_delay = 0.25
    values = await scrape(server)
    assert values["streamcap_stream_lag_seconds", "stream=door"] == 12.5
    assert values["streamcap_caption_age_seconds", "stream=door"] == 0.5
    assert values["streamcap_overloaded", ""] == 1
    assert values["streamcap_late_share", ""] == 0.5
    assert values["streamcap_max_stream_lag_seconds", ""] == 12.5
    assert values["streamcap_interval_stretch", ""] == 1.5
    assert values["streamcap_event_loop_delay_seconds", ""] == 0.25
    # Still 200: a restart would not help.
    answer = await server.http.get("/readyz")
    assert answer.status_code == 200
    assert answer.text == "ready; overloaded: captions are up to 12 s late on 1 of 2 streams\n"


async def test_metrics_report_drafts(server: Server) -> None:
    drafts = DraftStatistics(passes=7, tokens=20, proposed=15, accepted=13, dropped=1)
    server.streams.engine.models["mini"] = ModelStatistics(drafts=drafts)
    values = await scrape(server)
    assert values["streamcap_decoder_passes_total", ""] == 7
    assert values["streamcap_draft_tokens_total", "kind=proposed"] == 15
    assert values["streamcap_draft_tokens_total", "kind=accepted"] == 13
    assert values["streamcap_drafts_dropped_total", ""] == 1


async def test_metrics_report_refused_offers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamcap.server.webrtc.offers.OFFER_INTERVAL", 1000.0)
    monkeypatch.setattr("streamcap.server.webrtc.offers.MAX_WAITING", 0)
    headers = {"Content-Type": "application/sdp"}
    statuses = [(await server.http.post("/whip/tab", content="v=1", headers=headers)).status_code for _ in range(3)]
    assert statuses == [400, 503, 503]
    assert (await scrape(server))["streamcap_webrtc_offers_refused_total", ""] == 2


async def test_openapi_uses_no_other_host(server: Server) -> None:
    described = (await server.http.get("/openapi.json")).json()
    assert {"/streams", "/streams/{name}", "/captions/{name}", "/streams/{name}/hls/captions.m3u8", "/metrics"} <= set(
        described["paths"]
    )
    page = await server.http.get("/docs")
    script = await server.http.get("/pages/docs.js")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for text in (page.text, script.text):
        assert "https://" not in text
        assert "http://" not in text
