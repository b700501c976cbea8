"""`streamcap`, and `python -m streamcap`."""

import signal


def run() -> None:
    """As `streamcap.cli.main`; Ctrl-C ends the process without a traceback while the modules are imported, too."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from streamcap.cli import main

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()


if __name__ == "__main__":
    run()
