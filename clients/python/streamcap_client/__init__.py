"""Client of a streamcap caption feed: typed events, resumed after reconnection."""

from streamcap_client.events import Caption, Event, Extend, Gap, Hello, Other, ProtocolError, Status, parse
from streamcap_client.feed import Feed, RefusedError

__all__ = [
    "Caption",
    "Event",
    "Extend",
    "Feed",
    "Gap",
    "Hello",
    "Other",
    "ProtocolError",
    "RefusedError",
    "Status",
    "parse",
]
