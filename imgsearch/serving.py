"""The journey of `serve`: from what was asked for to a service that runs until it is stopped."""

from __future__ import annotations

import importlib.util
import re
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from imgsearch import images
from imgsearch.errors import InputError, MissingPackageError
from imgsearch.opening import read_manifest
from imgsearch.text import printable

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from imgsearch.records import Running
    from imgsearch.web.settings import Settings

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_NEEDS = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_SHORTEST_KEY = 16
_MEGABYTE = 1_000_000
_LARGEST_UPLOAD = 1000


def serve(  # noqa: PLR0913 - each is a choice of the user's
    index: str | os.PathLike[str],
    host: str,
    port: int,
    *,
    api_key: str | None,
    no_auth: bool,
    allow_host: Sequence[str],
    cors: Sequence[str],
    formats: Sequence[str],
    max_upload: float,
    queue: int,
    weights: str | None,
    running: Running,
) -> None:
    """Serve an index until SIGTERM or SIGINT.

    Args:
        index: its folder, a bare name, or its address on a server.
        host: the address to listen on; another than loopback demands `api_key` or `no_auth`.
        port: 0 takes a free one, which the log tells.
        api_key: what clients must send.
        no_auth: nothing must be sent, whoever can reach the host.
        allow_host: names that the service is called by, beside those of loopback.
        cors: origins whose pages may ask.
        formats: Pillow's names of what may be uploaded; the usual ones where it is empty.
        max_upload: megabytes.
        queue: pictures that may wait.
        weights: where the weights file lies now, for an index made from a local file.
        running: how pictures are opened and embedded.

    Raises:
        MissingPackageError: what serving needs is not installed.
        InputError: a setting cannot be used.
        WriteError: the port cannot be had.
        (and what opening the index and loading its model raise)
    """
    for package in _NEEDS:
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(package.replace("_", "-"), "serve", "imgsearch serve")
    settings = _settings(host, api_key, allow_host, cors, formats, max_upload, queue, no_auth)
    settings = replace(settings, limits=replace(running.limits, size=settings.max_upload))
    read_manifest(index)  # before anything is started
    # A stop while it starts is a stop, too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    from imgsearch.web.server import bind, run, start_logging
    from imgsearch.web.service import Service

    listener = bind(host, port)
    start_logging()
    run(Service(index, settings, weights=weights, running=running), listener)


def _stop(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


def _settings(  # noqa: PLR0917 - as they come from the command line
    host: str,
    api_key: str | None,
    allow_host: Sequence[str],
    cors: Sequence[str],
    formats: Sequence[str],
    max_upload: float,
    queue: int,
    no_auth: bool,  # noqa: FBT001 - as they come from the command line
) -> Settings:
    from imgsearch.web.settings import FORMATS, Settings

    if api_key is not None:
        if len(api_key) < _SHORTEST_KEY or not api_key.isascii() or not api_key.isprintable():
            raise InputError(
                f"the API key needs at least {_SHORTEST_KEY} ASCII characters: make one with "
                "`python -c 'import secrets; print(secrets.token_urlsafe())'`"
            )
    elif host not in _LOOPBACK and not no_auth:
        raise InputError(
            f"others could reach the service at {printable(host)}: give an --api-key (or "
            "IMGSEARCH_API_KEY) that clients must send, or say --no-auth"
        )
    for origin in cors:
        if not _ORIGIN.fullmatch(origin):
            raise InputError(
                f"{printable(origin)} is no origin: give scheme and host, as in https://example.org"
            )
    known = images.formats()
    wanted = tuple(name.upper() for name in formats) or FORMATS
    for name in wanted:
        if name not in known:
            raise InputError(
                f"there is no format '{printable(name)}'; choose from: {', '.join(known)}"
            )
    if not 0 < max_upload <= _LARGEST_UPLOAD:
        raise InputError(f"--max-upload must be above 0 and at most {_LARGEST_UPLOAD} megabytes")
    if queue < 1:
        raise InputError("--queue must be at least 1")
    names = _LOOPBACK | {name.lower() for name in allow_host}
    return Settings(
        api_key=api_key,
        cors=tuple(cors),
        # A service that others may reach by any name has its key, or was opened in so many words.
        hosts=names if host in _LOOPBACK or allow_host else None,
        formats=wanted,
        max_upload=int(max_upload * _MEGABYTE),
        queue=queue,
    )
