"""`python -m eexp`, and `eexp`, are the `eexp` command."""

import signal


def main() -> None:
    """Run the command line; a Ctrl-C while its modules are imported ends the process without a traceback."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where it is ignored, as in the background of a script
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from eexp.cli import main as run

    signal.signal(signal.SIGINT, before)
    run()


if __name__ == "__main__":
    main()
