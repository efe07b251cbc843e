"""What the scripts that break things share: small real pictures, a tiny network, quick commands.

A command is run in a process that is forked from one which has imported all it needs: the same
code, `imgsearch.cli.main`, without the second that Python takes to start. The commands whose
exit codes on signals matter are run as they are installed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import interior_photos
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

PROGRAM = (sys.executable, "-m", "imgsearch")
SIDE, DIM = 32, 64
LABELS = ("alpha", "beta", "gamma")
_PRELOADED = (
    "pandas",  # pyarrow imports it where it is there
    "pyarrow.pandas_compat",
    "pydantic.type_adapter",  # so does typer
    "faiss",
    "filelock",
    "imgsearch.cli",
    "imgsearch.search",
    "imgsearch.update",
    "imgsearch.build",
    "imgsearch.backbones",
    "onnxruntime",
    "pyarrow.compute",
    "pyarrow.parquet",
    "tiny",
)


class Photos:
    """A folder of real interiors, 160 pixels wide, in three class folders, that can be changed.

    No two files have the same content: each ends in bytes of its own, which decoders do not read.
    """

    def __init__(self, folder: Path, count: int, seed: int = 0) -> None:
        """Write the first `count` pictures."""
        self.folder = folder
        self._chance = random.Random(seed)  # noqa: S311 - a series that can be repeated
        self._made = 0
        self._stock = []
        stock = folder.with_name(f"{folder.name}-stock")
        stock.mkdir(parents=True)
        for photo in interior_photos.get_all_photos():
            with Image.open(photo) as image:
                image.thumbnail((160, 160))
                image.convert("RGB").save(stock / Path(photo).name)
            self._stock.append((stock / Path(photo).name).read_bytes())
        for _ in range(count):
            self.add()

    def files(self) -> list[Path]:
        """Return the pictures that are there, sorted; what else lies in the folder is none."""
        return sorted(self.folder.glob("*/[0-9]*.jpg"))

    def add(self) -> Path:
        """Add a picture; nobody sees half of it."""
        number = self._made
        self._made += 1
        file = self.folder / LABELS[number % 3] / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".part-{number}"
        part.write_bytes(self._stock[number % len(self._stock)] + f"{number}".encode())
        part.rename(file)
        return file

    def remove(self) -> None:
        """Remove some picture."""
        self._chance.choice(self.files()).unlink()

    def relabel(self) -> None:
        """Move some picture into another class."""
        file = self._chance.choice(self.files())
        at = LABELS.index(file.parent.name)
        file.rename(self.folder / LABELS[(at + 1) % 3] / file.name)


def make_model(file: Path) -> str:
    """Write a network that is as small as one can be: 64 numbers; return its name as a model."""
    weights = np.random.default_rng(0).standard_normal((DIM, 3, 4, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "weights"], ["wide"], strides=[4, 4]),
            helper.make_node("Relu", ["wide"], ["bent"]),
            helper.make_node("GlobalAveragePool", ["bent"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["vectors"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", DIM])],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(file))
    return f"onnx:{file}"


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended, as `subprocess` counts it, and what it said."""

    code: int
    out: str
    err: str


class Command:
    """A command that runs; by default as a fork of the process that has all imported already."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        held: bool = False,
        sync_always: bool = False,
        count: Path | None = None,
    ) -> None:
        """Start `imgsearch WORDS`.

        Args:
            words: the arguments.
            held: let it wait until `go` is called.
            sync_always: let it sync its journal at every record.
            count: a file that gets a byte for every picture that the network is given.
        """
        _start_server()
        self._place = Path(tempfile.mkdtemp(prefix="command-"))
        self._gate, gate = _context.Pipe()
        self._process = _context.Process(
            target=_command,
            args=(list(words), str(self._place), gate, sync_always, count and str(count)),
        )
        self._process.start()
        gate.close()
        if not held:
            self.go()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid or 0

    def go(self) -> None:
        """Let it run."""
        self._gate.send(None)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def wait(self, seconds: float | None = None) -> Done:
        """Wait for its end."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            raise TimeoutError("the command does not end")
        self._gate.close()
        self._process.close()
        files = [self._place / name for name in ("out", "err")]
        # One that was killed at once had no time to make them.
        out, err = (file.read_text() if file.exists() else "" for file in files)
        shutil.rmtree(self._place)
        return Done(code, out, err)


_context = multiprocessing.get_context("forkserver")


@functools.cache
def _start_server() -> None:
    """Start the process that the others are forked from."""
    _context.set_forkserver_preload(list(_PRELOADED))
    before = os.environ.get("PYTHONPATH")
    # Python 3.11's fork server imports from here only if it is told so in this way.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), before)))
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _command(
    words: list[str],
    place: str,
    gate: Connection,
    sync_always: bool,  # noqa: FBT001 - by position, across processes
    count: str | None,
) -> None:
    for number, name in enumerate((os.devnull, f"{place}/out", f"{place}/err")):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
        descriptor = os.open(name, flags, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    from imgsearch import cli, memory

    if sync_always:
        memory._SYNC_SECONDS = 0.0  # noqa: SLF001 - so that a short run does what a long one does
    if count is not None:
        _count_embeddings(count)
    gate.recv()
    cli.main(words)


def _count_embeddings(file: str) -> None:
    from imgsearch import embedding
    from imgsearch.embedding import _embed_batch
    from imgsearch.records import DecodedImage

    def counted(batch: list[Any], network: Any) -> list[Any]:  # noqa: ANN401 - as there
        number = sum(isinstance(decoded, DecodedImage) for decoded in batch)
        with Path(file).open("ab") as stream:
            stream.write(b"." * number)
        return _embed_batch(batch, network)

    embedding._embed_batch = counted  # noqa: SLF001 - whichever engine it is


def start(function: Callable[..., None], *values: object) -> BaseProcess:
    """Run a function of a module in a process of its own, which ends with this one."""
    _start_server()
    process = _context.Process(target=function, args=values, daemon=True)
    process.start()
    return process


def run(*words: str) -> Done:
    """Run a command to its end."""
    return Command(words).wait()


def run_installed(words: Sequence[str]) -> Done:
    """Run any program as it is installed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    return Done(done.returncode, done.stdout, done.stderr)


def preload() -> None:
    """Import all that a command needs, for a process that will fork."""
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def children(pid: int) -> set[int]:
    """Return the children of a process, by /proc."""
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(int(child) for child in task.read_text().split())
    return found


def alive(pids: set[int]) -> set[int]:
    """Return those processes that run; one that has ended and was not fetched does not."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.add(pid)
    return found


def ended(pids: set[int], seconds: float = 10.0) -> bool:
    """Wait for processes to end."""
    deadline = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pids)


class Table:
    """What was looked at, and what was wrong with it."""

    def __init__(self) -> None:
        """Print the head."""
        self.failed = self.looked = 0
        print(f"{'what':<46} {'cases':>6} {'failures':>8} {'seconds':>7}", flush=True)
        self._last = time.monotonic()

    def add(self, what: str, faults: Sequence[str | None], note: str = "") -> None:
        """Print a row, and what failed under it; an entry is None where nothing did."""
        wrong = [fault for fault in faults if fault is not None]
        self.looked += len(faults)
        self.failed += len(wrong)
        now = time.monotonic()
        head = f"{what:<46} {len(faults):>6,} {len(wrong):>8} {now - self._last:>7.0f}  {note}"
        print(head.rstrip(), flush=True)
        self._last = now
        for fault in wrong[:20]:
            print(f"    {fault}", flush=True)

    def close(self) -> int:
        """Print the sum; return the exit code."""
        print(f"{self.looked:,} cases, {self.failed} failures")
        return int(self.failed > 0)
