"""Secrets in URLs never reach a log, an event, a page or an exception's text."""

import re

# scheme://user:password@host — the password ends at the last @ before the path begins. People also write passwords with
# a slash in them: where what follows the colon is no port, it goes on to the last @ of all.
_USERINFO = re.compile(
    r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)(?P<user>[^/\s:@\[]*)(?::(?:[^/\s]*|(?!\d*(?:[/?#\s]|$))\S*))?@"
)
_SECRET_QUERY = re.compile(
    r"(?P<key>[?&;](?:token|access_token|auth|key|api_?key|passphrase|pass|password|passwd|pwd|secret|sig|signature)=)[^&;#\s'\"]*",
    re.IGNORECASE,
)


def redact(text: object) -> str:
    """`text` with the password of every URL in it, and every secret query value, replaced by `***`.

    The user name stays: it helps to tell two cameras apart and is no secret by itself.
    """
    out = _USERINFO.sub(lambda m: f"{m['scheme']}{m['user']}:***@", str(text))
    return _SECRET_QUERY.sub(lambda m: f"{m['key']}***", out)
