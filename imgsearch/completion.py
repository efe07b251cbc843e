"""What the shell offers when tab is pressed: indexes, the classes of one, models."""

from __future__ import annotations

import contextlib
import os

from imgsearch.errors import ImgsearchError


def complete_index(incomplete: str) -> list[str]:
    """Return the indexes whose name begins so."""
    from imgsearch.index import names

    return [name for name in names() if name.startswith(incomplete)]


def complete_label(incomplete: str) -> list[str]:
    """Return auto and the classes, that begin so, of the index named in the line."""
    import shlex

    from imgsearch.opening import read_manifest

    # The parser has not filled in INDEX while an option still waits for its value: read the line.
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS") or ""
    classes: dict[str, int] = {}
    with contextlib.suppress(ValueError):  # a quote that is still open
        for word in shlex.split(line)[2:]:
            with contextlib.suppress(ImgsearchError):
                classes = read_manifest(word).classes
                break
    return [name for name in ("auto", *classes) if name.startswith(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    """Return the models whose name begins so."""
    from imgsearch.backbones import MODELS

    return [spec.name for spec in MODELS if spec.name.startswith(incomplete)]
