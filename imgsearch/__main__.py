"""The command `imgsearch`, which is also `python -m imgsearch`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command in `sys.argv`."""
    # While the rest is imported Ctrl-C ends the process as the system does, without a traceback;
    # terminal.run() takes it over. Where it is ignored (nohup), that stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from imgsearch import cli

    cli.main()


if __name__ == "__main__":
    main()
