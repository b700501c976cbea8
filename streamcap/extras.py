"""Install instructions for optional dependencies."""

from __future__ import annotations


def install_command(extra: str) -> str:
    """The command that installs the optional dependencies `extra` of pyproject.toml.

    It installs from the checkout: streamcap is not published, and `streamcap` on PyPI is another project.
    """
    return f"pip install '.[{extra}]' in the source checkout"
