"""Joining a Ray cluster, or starting one of our own: in a bounded time, and without a word."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from imgsearch.errors import ImgsearchError, InputError, NotFoundError
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS = "RAY_ADDRESS"
# Addresses that Ray has words for: one of our own, and the one that it finds on this machine.
_LOCAL, _FOUND = "local", "auto"
_CONNECT_SECONDS, _HEALTH_SECONDS = 5.0, 15.0
_OBJECT_STORE = 1 << 30


class Session:
    """Ray, joined at RAY_ADDRESS or started on this machine: begun now, waited for when wanted.

    It starts and ends in a thread of its own, which lives as long as Ray does. In the main thread
    Ray would put in handlers of its own for signals, and one that came meanwhile could get lost;
    and processes that it starts end with the thread that did.
    """

    def __init__(self) -> None:
        """Begin to start it."""
        # Nobody is told about the use of Ray, and Ray does not tell the user about itself.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
        # What Ray imports warns of a package that nobody needs. Filters of warnings belong to all
        # threads: whoever changes them for a while, in another one, keeps what was there before.
        warnings.filterwarnings("ignore", message="SOCKS support in urllib3")
        self._address = given_address()
        self._started, self._done = threading.Event(), threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._live, name="imgsearch-ray", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        options: dict[str, Any] = {}
        if self._address == _LOCAL:
            options = {
                "num_cpus": os.cpu_count() or 1,
                "object_store_memory": _OBJECT_STORE,
                "include_dashboard": False,
            }
        ours = False
        try:
            import ray

            ours = not ray.is_initialized()  # else by who calls us from Python
            if ours:
                ray.init(
                    address=self._address,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    **options,
                )
        except Exception as error:  # noqa: BLE001 - Ray's errors here have no common base but this
            self._failed = error
        self._started.set()
        if ours and self._failed is None:
            self._done.wait()
            ray.shutdown()

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Wait until it has started, and end it afterwards; raises NotFoundError."""
        try:
            _await(self._started)
            if self._failed is not None:
                _refuse(self._address, self._failed)
            with _silent():
                try:
                    yield
                finally:  # what it still has to say comes until it has ended
                    self.close()
        finally:
            self.close()

    def close(self) -> None:
        """End it."""
        self._done.set()
        self._thread.join()


def _await(started: threading.Event) -> None:
    """Wait until Ray has started; a signal is heard then, a second one at once."""
    came: BaseException | None = None
    while not started.is_set():
        try:
            started.wait()
        except BaseException as error:
            if came is not None:
                raise
            came = error
    if came is not None:
        raise came


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what Ray has to say of dead processes off the results: there is no switch for it."""
    from ray._private import worker

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    said = getattr(worker, "print_to_stdstream", None)
    vars(worker)["print_to_stdstream"] = lambda *_words, **_named: None
    try:
        yield
    finally:
        if said is not None:
            vars(worker)["print_to_stdstream"] = said


def given_address() -> str:
    """Return where the cluster is: a bare ray.init() would join any that was left here."""
    return os.environ.get(ADDRESS) or _LOCAL


def check_form(address: str) -> None:
    """Raise InputError where an address cannot be that of a cluster."""
    shown = printable(address)
    if "://" in address:
        raise InputError(
            f"{ADDRESS} is {shown}, which is no cluster's own address (HOST:PORT): run the "
            "command on the cluster with `ray job submit`, see docs/scale.md"
        )
    host, colon, port = address.rpartition(":")
    if address not in {_LOCAL, _FOUND} and not (colon and host and port.isdecimal()):
        raise InputError(f"{ADDRESS} is {shown}; it is HOST:PORT, as in 10.0.0.1:6379")


def check_there(address: str) -> None:
    """Raise NotFoundError where there is no cluster, in a bounded time: Ray itself would hang."""
    if address in {_LOCAL, _FOUND}:
        return
    host, _, port = address.rpartition(":")
    shown = printable(address)
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        asked = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_HEALTH_SECONDS,
            check=False,
        )
    except (OSError, OverflowError, subprocess.TimeoutExpired) as error:
        said = "it does not answer" if isinstance(error, subprocess.TimeoutExpired) else str(error)
        raise NotFoundError(
            f"there is no Ray cluster at {ADDRESS}={shown} ({printable(said)}): start one with "
            "`ray start --head`, or unset the variable to use this machine alone"
        ) from error
    if asked.returncode:
        lines = (asked.stderr or asked.stdout).decode(errors="replace").strip().splitlines()
        said = printable(lines[-1])[:200] if lines else "no health"
        raise NotFoundError(f"what answers at {ADDRESS}={shown} is no Ray cluster for us: {said}")


def _refuse(address: str, error: Exception) -> NoReturn:
    said = printable(" ".join(str(error).split()))[:300]
    if address == _LOCAL:
        raise ImgsearchError(f"Ray cannot be started on this machine: {said}") from error
    raise NotFoundError(
        f"the Ray cluster at {ADDRESS}={printable(address)} cannot be joined: {said}"
    ) from error
