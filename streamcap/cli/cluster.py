"""`streamcap cluster status`: nodes, streams, owners and lag of a cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from streamcap.cli.extra import require_extra
from streamcap.cli.service.node import NatsCa, NatsCert, NatsCreds, NatsKey, NatsUrls

if TYPE_CHECKING:
    from streamcap.cluster.jetstream.connection import ClusterOptions
    from streamcap.cluster.status import ClusterStatus

app = typer.Typer(name="cluster", help="Many machines: see `streamcap node`.", no_args_is_help=True)


@app.callback()
def _cluster() -> None:
    """Many machines: see `streamcap node`."""


@app.command()
def status(
    nats: NatsUrls = ["nats://127.0.0.1:4222"],  # noqa: B006 - typer copies it
    nats_creds: NatsCreds = None,
    nats_ca: NatsCa = None,
    nats_cert: NatsCert = None,
    nats_key: NatsKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print nodes, streams, their owners, and how old their newest events are."""
    require_extra("cluster", "nats", "msgspec")
    import asyncio  # not above: it would be a sixth of the time of `streamcap --help`

    from streamcap.cluster.jetstream.connection import ClusterOptions

    options = ClusterOptions(tuple(nats), creds=nats_creds, ca=nats_ca, cert=nats_cert, key=nats_key)
    found = asyncio.run(_read(options))
    if as_json:
        typer.echo(json.dumps(found.as_json()))
        return
    typer.echo("\n".join(_lines(found)))


async def _read(options: ClusterOptions) -> ClusterStatus:
    from streamcap.cluster.jetstream.connection import connect
    from streamcap.cluster.status import read_status

    connection = await connect(options, "streamcap cluster status")
    try:
        return await read_status(connection)
    finally:
        await connection.close()


def _lines(found: ClusterStatus) -> list[str]:
    lines = [f"{'NODE':32} {'SITE':12} {'ROLES':24} {'STREAMS':>9} {'CPU':>5} {'CREDIT':>6} {'ROWS/S':>7}  URL"]
    for node in found.nodes:
        streams = f"{node.streams}/{node.capacity}" if "ingest" in node.roles else "-"
        roles = ",".join(node.roles) + (" (draining)" if node.draining else " (starting)" if node.starting else "")
        is_engine = "engine" in node.roles
        credit, rows = (str(node.credits), f"{node.rows_per_second:.1f}") if is_engine else ("-", "-")
        lines.append(
            f"{node.id:32} {node.site:12} {roles:24} {streams:>9} {node.cpu:5.0%} {credit:>6} {rows:>7}  {node.url}"
        )
    lines += ["", f"{'STREAM':24} {'SITE':12} {'OWNER':32} {'TERM':>5} {'SEQ':>9} {'AGE':>8}"]
    for stream in found.streams:
        owner = stream.owner if stream.owner_alive or not stream.owner else f"{stream.owner} (dead)"
        lines.append(
            f"{stream.name:24} {stream.site:12} {owner or '-':32} {stream.term:5} {stream.seq:9} {stream.age_s:7.1f}s"
        )
    waiting = ", ".join(f"{count} at {site}" for site, count in sorted(found.waiting.items()) if count)
    lines += [
        "",
        f"{len(found.streams)} streams, {found.stored} stored messages; waiting for a node: {waiting or 'none'}",
    ]
    return lines
