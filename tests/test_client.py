"""What the OpenAPI description is worth: a typed client made from it, and schemathesis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import ROOT
from serving import Served

from imgsearch import SearchEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

TOOLS = ROOT / ".venv" / "tools" / "bin"
PROGRAM = Path(__file__).with_name("client_program.py")
KEY = "0123456789abcdef-a-test"
# The generator knows no pictures, but what it is to do with them can be said.
GENERATOR = {"content_type_overrides": {"image/jpeg": "application/octet-stream"}}


@pytest.fixture(scope="module")
def served(rooms: Path) -> Iterator[Served]:
    """The demo's index, served with a key."""
    assert TOOLS.is_dir(), "scripts/setup test installs the tools of these tests"
    service = Served(rooms, "--api-key", KEY)
    yield service
    assert service.end() == 0


def run(*words: object, place: Path) -> str:
    """Run a command that must end with 0; modules are found in `place`."""
    variables = {"PATH": f"{TOOLS}:{os.environ['PATH']}", "MYPYPATH": str(place)}
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **variables, "PYTHONPATH": str(place)},
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_typed_client_can_be_made(
    served: Served, rooms: Path, small_photos: Path, tmp_path: Path
) -> None:
    """A client is generated without a warning, fits its types, and gets the numbers of Python."""
    config = tmp_path / "generator.json"
    config.write_text(json.dumps(GENERATOR), encoding="ascii")
    words = ["generate", "--url", f"{served.url}/openapi.json", "--meta", "none"]
    words += ["--output-path", tmp_path / "rooms_client", "--config", config, "--fail-on-warning"]
    run(TOOLS / "openapi-python-client", *words, place=tmp_path)
    python = TOOLS / "python"
    checked = ["--strict", "--python-executable", python, "--cache-dir", tmp_path / "cache"]
    run(sys.executable, "-m", "mypy", *checked, PROGRAM, place=tmp_path)

    picture, row = min(small_photos.iterdir()), 3
    told = json.loads(run(python, PROGRAM, served.url, KEY, picture, row, place=tmp_path))
    with SearchEngine.open(rooms) as engine:
        label = engine.classes[0]
        by_picture = engine.by_image(picture, 4, label=label).to_dict()
        vector = np.array(told["picture"].pop("vector"))
        by_vector = engine.by_vector(vector, label=label).to_dict()
        by_row = engine.by_row(row, 3, scope="other").to_dict()
    assert told["picture"] == {**by_picture, "query": "image"}
    assert (told["vector"], told["row"]) == (by_vector, by_row)
    assert (told["label"], told["error"]) == (label, "NotFoundError")
    assert told["size"] > 500
