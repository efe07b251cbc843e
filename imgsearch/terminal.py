"""What the commands share: printing, progress, and how errors and signals end a process."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from imgsearch.errors import ImgsearchError, InputError
from imgsearch.text import count, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import typer

    from imgsearch.records import Skip

_INTERRUPTED, _TERMINATED = 130, 143
_SKIPS_SHOWN = 10


def as_dicts(skips: Sequence[Skip]) -> list[dict[str, str]]:
    """Return skips as JSON shows them."""
    return [{"path": skip.path, "reason": skip.reason} for skip in skips]


def print_text(text: str) -> None:
    """Print a result for people."""
    sys.stdout.write(text + "\n")


def print_json(
    value: dict[str, Any], name: str | None = None, entries: Iterable[dict[str, Any]] = ()
) -> None:
    """Print the one JSON document of a command.

    With a name the document gets a last member of it: the list of `entries`, which are printed a
    line each as they come, so that a hundred thousand of them need not be held at once.
    """
    # ASCII: a name that is no UTF-8 must not stop the answer at the last moment.
    text = json.dumps(value, indent=2, allow_nan=False)
    if name is None:
        sys.stdout.write(text + "\n")
        return
    sys.stdout.write(f"{text.removesuffix('}').rstrip()},\n  {json.dumps(name)}: [")
    for number, entry in enumerate(entries):
        line = json.dumps(entry, allow_nan=False)
        sys.stdout.write(f"{',' if number else ''}\n    {line}")
    sys.stdout.write("\n  ]\n}\n")


def tell(text: str) -> None:
    """Say something beside the result, on standard error."""
    sys.stderr.write(text + "\n")


def tell_skips(skips: Sequence[Skip]) -> None:
    """Say which files were skipped, the first few by name."""
    if not skips:
        return
    tell(f"{count(len(skips), 'file')} skipped:")
    for skip in skips[:_SKIPS_SHOWN]:
        tell(f"  {printable(skip.path)}: {skip.reason}")
    if len(skips) > _SKIPS_SHOWN:
        tell(f"  and {len(skips) - _SKIPS_SHOWN:,} more; --json lists them all")


class Progress:
    """A bar on standard error, only where that is a terminal; it starts anew for each stage."""

    def __init__(self, noun: str) -> None:
        """`noun` is what is counted."""
        self._noun = noun
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Callable[[int, int], None] | None:
        """Return the function to call with (done, total); None where nobody looks."""
        if not sys.stderr.isatty():
            return None
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn())
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
        )
        self._task = self._bar.add_task(self._noun, total=None)
        self._bar.start()
        return self._update

    def _update(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


class _Signals:
    """Ends a command on SIGINT and SIGTERM, and remembers which of them came.

    What a handler raises while a C extension is imported comes out as an ImportError.
    """

    def __init__(self) -> None:
        self.came: int | None = None

    def catch(self) -> None:
        """Handle both; SIGINT stays ignored where it is (nohup)."""
        signal.signal(signal.SIGTERM, self._handle)
        if signal.getsignal(signal.SIGINT) in {signal.SIG_DFL, signal.default_int_handler}:
            signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, _frame: object) -> NoReturn:
        self.came = number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(_TERMINATED)

    def code(self) -> int:
        """Say what the user may have done, and return the exit code."""
        if self.came == signal.SIGTERM:
            return _TERMINATED
        tell("interrupted")
        return _INTERRUPTED


def run(app: typer.Typer, arguments: list[str] | None = None) -> NoReturn:
    """Run a command and end the process with its exit code.

    Every error that was foreseen is one sentence on standard error; with --debug its traceback
    stands before it.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    signals = _Signals()
    signals.catch()
    for stream in (sys.stdout, sys.stderr):
        # A name of any script must not fail on a terminal that knows only some of them.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = _run(app, words, signals, debug=debug)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing is to be said about it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _run(app: typer.Typer, words: list[str], signals: _Signals, *, debug: bool) -> int:
    try:
        from typer.main import get_command

        result = get_command(app).main(args=words, prog_name="imgsearch", standalone_mode=False)
    except BaseException as error:  # noqa: BLE001 - the last resort: nobody sees a traceback
        if signals.came is not None or isinstance(error, KeyboardInterrupt):
            return signals.code()
        return _failed(error, debug=debug)
    if result == _INTERRUPTED:  # typer's own way of ending after a KeyboardInterrupt
        return signals.code()
    code = result if isinstance(result, int) else 0
    if code == _INTERRUPTED:  # typer makes a code of Ctrl-C
        tell("interrupted")
    return code


def _failed(error: BaseException, *, debug: bool) -> int:
    """Say what went wrong, in one sentence, and return the exit code."""
    code = getattr(error, "exit_code", None)
    name = type(error).__name__
    if isinstance(error, BrokenPipeError):
        return 0
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if name == "NoArgsIsHelpError":
        tell(str(error.ctx.get_help()))  # type: ignore[attr-defined]  # typer's own copy
        return InputError.exit_code
    if name == "Abort":  # at the end of the input
        tell("interrupted")
        return _INTERRUPTED
    if isinstance(error, ImgsearchError):
        sentence, code = str(error), error.exit_code
    elif isinstance(error, MemoryError):
        sentence, code = "this machine has too little memory for that", 1
    elif isinstance(code, int) and hasattr(error, "format_message"):
        sentence = _usage(error)
    else:
        said = printable(" ".join(str(error).split()))[:300]
        code = 1
        sentence = (
            f"something unforeseen went wrong ({name}: {said}); run it again with --debug and "
            "report what it prints"
        )
    return _report(error, sentence, code, debug=debug)


def _usage(error: Any) -> str:  # noqa: ANN401 - typer's own copy of click's error
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "imgsearch"
    said = printable(str(error.format_message())).rstrip(".")
    return f"{said[:1].lower()}{said[1:]}; see {path} --help"


def _report(error: BaseException, sentence: str, code: int, *, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    tell(f"imgsearch: {sentence}")
    return code
