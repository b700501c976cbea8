"""The errors a user can cause or meet; each message is one line that says what, where and what to do."""


class StreamcapError(Exception):
    """Base of every error this package raises on purpose. The command line prints it and exits with 1."""


class LostCaptionsError(StreamcapError):
    """The service has ended in order, but some captions are lost."""


class InputError(StreamcapError):
    """What was asked for or handed in cannot work: exit status 2, HTTP 4xx."""
