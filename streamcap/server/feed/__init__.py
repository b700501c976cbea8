"""The caption feed over websocket and SSE."""
