"""Errors for users. Each message is one line that says what, where and what to do."""


class StreamcapError(Exception):
    """Base of every error this package raises on purpose. The command line prints it and exits with 1."""


class LostCaptionsError(StreamcapError):
    """The service ended cleanly, but some captions are lost."""


class InputError(StreamcapError):
    """The request or the input is invalid: exit status 2, HTTP 4xx."""
