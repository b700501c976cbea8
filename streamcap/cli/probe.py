"""`streamcap probe`: what a source is, or what is wrong with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from streamcap.media.sources.probe import ProbeReport


def probe(
    url: Annotated[str, typer.Argument(metavar="URL", help="A source, as for `streamcap serve`.", show_default=False)],
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a source is, or what is wrong with it, within 10 s. Exit status: 0 usable, 1 not, 2 wrong use."""
    from streamcap.media.sources.probe import probe as probe_source

    report = probe_source(url)
    if json_output:
        typer.echo(json.dumps(report.as_json(), indent=2))
    elif report.usable:
        for name, value in rows(report):
            typer.echo(f"{name:<20}{value}")
    else:
        typer.echo(f"{report.url}: {report.reason}", err=True)
    raise typer.Exit(0 if report.usable else 1)


def rows(report: ProbeReport) -> list[tuple[str, str]]:
    """Name and value of each known field."""
    rate, interval, bits = report.frames_per_second, report.keyframe_interval, report.bits_per_second
    size = f"{report.width}x{report.height}" if report.width else ""
    found = {
        "source": report.url,
        "codec": report.codec,
        "size": f"{size}, shown as {report.display_aspect}" if report.display_aspect else size,
        "frame rate": "" if rate is None else f"{rate:g} frames a second",
        "keyframes": "" if interval is None else f"one every {interval:g} s",
        "bit rate": "" if bits is None else f"{bits / 1e6:.2f} Mbit/s",
        "audio": report.audio or "none",
        "clock": "the camera's (RTCP sender reports)" if report.clock == "rtcp" else "the time of arrival",
        "transport": report.transport,
        "--decode auto": report.decode,
    }
    return [(name, value) for name, value in found.items() if value]
