"""`python -m streamcap`."""

from streamcap.cli import main

main()
