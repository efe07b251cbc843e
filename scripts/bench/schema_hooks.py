"""For schema.py: half of the pictures and vectors that fit the schema are some that can be used.

By itself schemathesis makes up both, and would see hardly anything but refusals.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.transport.serialization import Binary

_KNOWN: dict[str, Any] = json.loads(os.environ["SCHEMA_KNOWN"])
_PICTURES = [Path(file).read_bytes() for file in _KNOWN["pictures"]]

schemathesis.openapi.format(
    "binary", st.one_of(st.binary(), st.sampled_from(_PICTURES)).map(Binary)
)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:  # noqa: ANN401, ARG001
    """Give a random vector that fits the schema as many numbers as the index has."""
    body, meta = case.body, case.meta
    if meta is None or meta.phase.name.value != "fuzzing" or not meta.generation.mode.is_positive:
        return
    numbers = body.get("vector") if isinstance(body, dict) else None
    # The same for the same numbers: a failure comes again.
    if isinstance(numbers, list) and zlib.crc32(repr(numbers).encode()) % 2:
        # Kept small: the squares of what is made up pass the largest number.
        body["vector"] = [math.atan(numbers[i % len(numbers)]) for i in range(_KNOWN["dim"])]
