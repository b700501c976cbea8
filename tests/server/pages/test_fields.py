"""The page reads only what `GET /streams` has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import streamcap.server
from streamcap.streams.snapshot import StreamSnapshot

PAGES = Path(streamcap.server.__file__).parent / "pages"


def test_page_reads_fields_of_snapshot() -> None:
    read = {
        name for page in ("card.js", "index.js") for name in re.findall(r"\bview\.(\w+)", (PAGES / page).read_text())
    }
    assert {"captions", "samples_missed"} <= read
    assert read <= {field.name for field in dataclasses.fields(StreamSnapshot)}
