"""How optional packages are installed."""

from __future__ import annotations


def install_command(extra: str) -> str:
    """What installs `extra` of pyproject.toml.

    From the checkout: nothing has been published, and `streamcap` on the Python package index is another project.
    """
    return f"pip install '.[{extra}]' in the source checkout"
