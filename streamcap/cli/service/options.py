"""Options that `streamcap serve` and `streamcap node` share, as annotations of their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamcap.cli.service.log_format import LogFormat, LogLevel
from streamcap.image_spec import Fit
from streamcap.media.demand import Decode, Hwaccel

STREAMS, MODEL, FEED, FILES, SERVER, SECURITY, OUTPUT = (
    "Streams",
    "Model",
    "Captions and feed",
    "Caption files",
    "Server",
    "Security",
    "Output",
)

Every = Annotated[float, typer.Option(help="Seconds between captions of a stream.", rich_help_panel=STREAMS)]
ReadTimeout = Annotated[
    float, typer.Option(help="Seconds without data until a source is reconnected.", rich_help_panel=STREAMS)
]
DecodeOption = Annotated[
    Decode,
    typer.Option(
        help="Frames of a camera to decode. auto: what captions and viewers need; keyframes: no others, even if "
        "captions become fewer.",
        rich_help_panel=STREAMS,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=MODEL)]
Precision = Annotated[
    str, typer.Option(help="auto, fp32, or a reduced one: see `streamcap models`.", rich_help_panel=MODEL)
]
Vision = Annotated[
    str | None,
    typer.Option(help="Vision tower for a checkpoint without one: directory or hub name.", rich_help_panel=MODEL),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="Tokenizer for a checkpoint without one: directory or hub name.", rich_help_panel=MODEL),
]
FitOption = Annotated[
    Fit | None,
    typer.Option(
        help="How to fit images of another aspect ratio.", show_default="the model's own", rich_help_panel=MODEL
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        help="CPU threads of the model, at most; mini takes one for each image.",
        show_default="auto",
        rich_help_panel=MODEL,
    ),
]
ChangeThreshold = Annotated[
    float,
    typer.Option(
        help="Cosine distance below which an image counts as unchanged; 0 captions every sample.",
        rich_help_panel=FEED,
    ),
]
ReplayEvents = Annotated[
    int,
    typer.Option(help="Events kept in memory per stream, for viewers that reconnect.", rich_help_panel=FEED),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Directory for NAME.srt, NAME.vtt and NAME.jsonl.", show_default="no files", rich_help_panel=FILES
    ),
]
RotateBytes = Annotated[
    str, typer.Option(help="Rotate NAME.jsonl at this size, such as 100MB; 0: never.", rich_help_panel=FILES)
]
KeepDays = Annotated[
    float | None,
    typer.Option(
        help="Rotate NAME.jsonl daily, and remove older parts after so many days.",
        show_default="keep all",
        rich_help_panel=FILES,
    ),
]
KeepFiles = Annotated[
    int | None,
    typer.Option(
        help="Number of older parts of each NAME.jsonl to keep.", show_default="keep all", rich_help_panel=FILES
    ),
]
SubtitleWindow = Annotated[
    float, typer.Option(help="Seconds of captions in the rolling subtitle files.", rich_help_panel=FILES)
]
StallAfter = Annotated[
    float,
    typer.Option(help="Seconds without a frame until a stream is stalled.", rich_help_panel=STREAMS),
]
HwaccelOption = Annotated[
    Hwaccel, typer.Option(help="Hardware decoder to use, if there is one.", rich_help_panel=STREAMS)
]
ClipSeconds = Annotated[
    float, typer.Option(help="Seconds of video in one input of a clip model.", rich_help_panel=STREAMS)
]
Model = Annotated[
    str,
    typer.Option(
        help="Model name, file, directory or openai:MODEL of --model-url: see `streamcap models`.",
        rich_help_panel=MODEL,
    ),
]
ModelUrl = Annotated[
    str | None,
    typer.Option(
        help="Server of an openai: model: http://127.0.0.1:11434/v1. Its key: STREAMCAP_MODEL_KEY.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
ModelKeyFile = Annotated[
    Path | None,
    typer.Option(help="File with the server's key, instead of STREAMCAP_MODEL_KEY.", rich_help_panel=MODEL),
]
Fallback = Annotated[
    str | None,
    typer.Option(help="Local model that captions while the server of an openai: model fails.", rich_help_panel=MODEL),
]
Prompt = Annotated[
    str | None,
    typer.Option(help="Prompt, for models that take one.", show_default="the model's own", rich_help_panel=MODEL),
]
RefreshInterval = Annotated[
    float, typer.Option(help="Seconds until an unchanged image is captioned again.", rich_help_panel=FEED)
]
InterimRate = Annotated[
    float,
    typer.Option(
        min=0, max=1000, help="Maximum interim captions per second and stream; 0: none.", rich_help_panel=FEED
    ),
]
MinConfidence = Annotated[
    float,
    typer.Option(
        help="Do not publish captions of a lower confidence, 0 to 1; 0: publish all.",
        rich_help_panel=FEED,
    ),
]
MaxAge = Annotated[
    float,
    typer.Option(help="Seconds after which a caption is too old to be sent to live viewers.", rich_help_panel=FEED),
]
IceServers = Annotated[
    list[str] | None,
    typer.Option(
        help="stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT, for WebRTC with browsers on other networks.",
        rich_help_panel=SERVER,
    ),
]
Host = Annotated[
    str,
    typer.Option(help="Address to listen on; non-loopback addresses require --token.", rich_help_panel=SERVER),
]
Port = Annotated[int, typer.Option(help="Port to listen on; 0: any free port.", rich_help_panel=SERVER)]
RootPath = Annotated[
    str,
    typer.Option(
        help="Path under which a proxy serves this service: /cams.", show_default=False, rich_help_panel=SERVER
    ),
]
TlsCert = Annotated[Path | None, typer.Option(help="Certificate chain (PEM): serve https.", rich_help_panel=SERVER)]
TlsKey = Annotated[Path | None, typer.Option(help="Key (PEM) of the certificate.", rich_help_panel=SERVER)]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="STREAMCAP_TOKEN",
        help="Token required to add and remove streams, to publish and to view.",
        rich_help_panel=SECURITY,
    ),
]
ViewToken = Annotated[
    str | None,
    typer.Option(envvar="STREAMCAP_VIEW_TOKEN", help="Second token, for viewing only.", rich_help_panel=SECURITY),
]
Origin = Annotated[
    list[str] | None,
    typer.Option(help="Allow pages of this origin (https://example.org) to connect.", rich_help_panel=SECURITY),
]
AllowNet = Annotated[
    bool,
    typer.Option(
        "--allow-net",
        help="Let HTTP clients add cameras on private and loopback addresses.",
        rich_help_panel=SECURITY,
    ),
]
AllowLocal = Annotated[
    bool,
    typer.Option(
        "--allow-local",
        help="Let HTTP clients add files, devices, scenes and local UDP ports.",
        rich_help_panel=SECURITY,
    ),
]
LogLevelOption = Annotated[LogLevel, typer.Option(help="Least severe messages in the log.", rich_help_panel=OUTPUT)]
LogFormatOption = Annotated[
    LogFormat, typer.Option(help="Log lines for people, or one JSON object a line.", rich_help_panel=OUTPUT)
]
