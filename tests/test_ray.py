"""`--on ray`: the index of a local build, whatever dies meanwhile. Real Ray, two nodes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import MODEL

from imgsearch import build_index
from imgsearch.clusters import DIED
from imgsearch.index import open_index
from imgsearch.memory import _RECORD, WORK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Run

    from imgsearch.index import Index

HERE = Path(__file__).parent
PROGRAM = Path(sys.executable).with_name("imgsearch")
BAD, KILLER = "alpha/bad.jpg", "beta/killer.jpg"


@dataclass(frozen=True, slots=True)
class Nodes:
    """A cluster: where it is, and who takes orders."""

    address: str
    process: subprocess.Popen[str]

    def do(self, order: str) -> None:
        """Kill or add the second node."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Start two nodes whose processes know the deadly format."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(HERE / "killer")]))
    with subprocess.Popen(
        [sys.executable, HERE / "ray_nodes.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"},
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield Nodes(process.stdout.readline().strip(), process)
        process.stdin.close()
        process.wait(60)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, small_photos: Path) -> Path:
    """Return 117 pictures in three classes, three of each content but for their last bytes."""
    folder = tmp_path_factory.mktemp("many")
    for i, photo in enumerate(sorted(small_photos.iterdir()) * 3):
        target = folder / ("alpha", "beta", "gamma")[i % 3]
        target.mkdir(exist_ok=True)
        (target / f"{i:03d}.jpg").write_bytes(photo.read_bytes() + i.to_bytes(4, "big"))
    return folder


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Index:
    """Return the index that this machine makes of them alone."""
    index = tmp_path_factory.mktemp("local") / "index"
    build_index(pictures, index, model=MODEL)
    return open_index(index)


def assert_same(one: Index, other: Index) -> None:
    """Hold two indexes to the same rows, and to vectors within 1e-5."""
    assert one.items.all() == other.items.all()
    assert np.abs(np.asarray(one.vectors.rows) - np.asarray(other.vectors.rows)).max() < 1e-5


def finished(index: Path) -> int:
    """Return how many bytes of finished pictures an unfinished build has kept."""
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in (index / WORK).iterdir())
    return 0


def records(index: Path) -> int:
    """Count the pictures that an unfinished build has kept whole."""
    number = 0
    for file in (index / WORK).iterdir():
        data, at = file.read_bytes(), 0
        while at + _RECORD.size <= len(data):
            header, vector, _ = _RECORD.unpack_from(data, at)
            at += _RECORD.size + header + vector
            number += at <= len(data)
    return number


def begun(
    pictures: Path, index: Path, address: str | None, least: int = 20_000
) -> subprocess.Popen[str]:
    """Start a build on Ray and wait until it has kept something."""
    child = subprocess.Popen(
        [PROGRAM, "build", pictures, index, "--model", MODEL, "--on", "ray"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_ADDRESS": address or ""},
    )
    end = time.monotonic() + 90
    while finished(index) < least and child.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert child.poll() is None
    return child


def test_a_cluster_makes_the_index_of_a_local_build(
    imgsearch: Callable[..., Run], nodes: Nodes, pictures: Path, tmp_path: Path
) -> None:
    """Rows, vectors and skips are the same, and the picture that kills its process is named."""
    folder = shutil.copytree(pictures, tmp_path / "photos")
    (folder / BAD).write_bytes(b"no picture")
    build_index(folder, tmp_path / "here", model=MODEL)
    (folder / KILLER).write_bytes(b"KILLER")
    run = imgsearch(
        *("build", folder, tmp_path / "index", "--model", MODEL, "--on", "ray", "--json"),
        RAY_ADDRESS=nodes.address,
    )
    assert run.code == 0, run.err
    built, here = open_index(tmp_path / "index"), open_index(tmp_path / "here")
    assert run.json["count"] == len(built.items.all()) == 117
    assert_same(built, here)
    killed = [skip for skip in built.skips if skip.path == KILLER]
    assert [skip.reason for skip in killed] == [DIED]
    assert [skip for skip in built.skips if skip.path != KILLER] == list(here.skips)
    assert "ray" not in run.err.lower()


def test_a_node_that_dies_costs_no_picture(
    nodes: Nodes, pictures: Path, local: Index, tmp_path: Path
) -> None:
    """The shards that it had are embedded by others."""
    child = begun(pictures, tmp_path / "index", nodes.address)
    nodes.do("kill")
    try:
        out, err = child.communicate(timeout=90)
    finally:
        nodes.do("add")
    assert (child.returncode, err) == (0, "")
    assert "117 pictures" in out
    assert_same(open_index(tmp_path / "index"), local)


def test_a_killed_driver_goes_on_where_it_was(
    nodes: Nodes, pictures: Path, local: Index, tmp_path: Path
) -> None:
    """What had come back is not embedded again."""
    child = begun(pictures, tmp_path / "index", nodes.address)
    child.kill()
    child.communicate()
    kept = records(tmp_path / "index")
    run = subprocess.run(
        [sys.executable, HERE / "ray_build.py", pictures, tmp_path / "index"],
        capture_output=True,
        check=True,
        env={**os.environ, "RAY_ADDRESS": nodes.address},
    )
    assert 0 < kept < 117
    rest = 117 - kept
    assert json.loads(run.stdout) == {"asked": rest, "came": rest, "count": 117}
    assert_same(open_index(tmp_path / "index"), local)


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_build_as_it_does_without_ray(
    nodes: Nodes, pictures: Path, tmp_path: Path, sign: int, code: int
) -> None:
    """The exit code is the usual one, no index is left, and what was done is kept."""
    child = begun(pictures, tmp_path / "index", nodes.address)
    child.send_signal(sign)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code
    assert err == ("interrupted\n" if sign == signal.SIGINT else "")
    assert finished(tmp_path / "index")
    assert not (tmp_path / "index" / "manifest.json").exists()


def children(pid: int) -> dict[int, str]:
    """Return the processes that a process has started, with their command lines."""
    found = {}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                with contextlib.suppress(OSError):
                    found[int(child)] = Path(f"/proc/{child}/cmdline").read_text()
    return found


def test_a_signal_while_ray_starts_is_not_lost(pictures: Path, tmp_path: Path) -> None:
    """SIGTERM in the seconds of its start ends the command with the usual code, and Ray with it."""
    child = subprocess.Popen(
        [PROGRAM, "build", pictures, tmp_path / "index", "--model", MODEL, "--on", "ray"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_ADDRESS": ""},
    )
    end = time.monotonic() + 60
    while not any("gcs_server" in line for line in children(child.pid).values()):
        assert child.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    started = children(child.pid)
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (143, "", "")
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)


def test_an_update_embeds_what_is_new_on_a_local_ray(
    imgsearch: Callable[..., Run], pictures: Path, tmp_path: Path
) -> None:
    """Without an address Ray starts on this machine and is gone afterwards."""
    folder = shutil.copytree(pictures / "alpha", tmp_path / "photos" / "alpha")
    index = tmp_path / "index"
    build_index(folder.parent, index, model=MODEL)
    new = folder / "zzz.jpg"
    new.write_bytes((folder / "000.jpg").read_bytes() + b"new")
    run = imgsearch("update", index, "--on", "ray", "--json", RAY_ADDRESS="")
    assert run.code == 0, run.err
    assert (run.json["added"], run.json["embedded"], run.err) == (1, 1, "")
    opened = open_index(index)
    first, last = opened.vectors.rows[0], opened.vectors.rows[-1]
    assert float(first @ last) == pytest.approx(1, abs=1e-5)
    run = imgsearch("update", index, "--on", "ray", "--json", RAY_ADDRESS="127.0.0.1:1")
    assert (run.code, run.json["written"]) == (0, False)  # nobody had to be asked


@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("127.0.0.1:1", 3, "there is no Ray cluster at RAY_ADDRESS=127.0.0.1:1"),
        ("ray://127.0.0.1:10001", 2, "ray job submit"),
        ("http://127.0.0.1:8265", 2, "ray job submit"),
        ("nonsense", 2, "HOST:PORT"),
    ],
)
def test_an_address_without_a_cluster_is_one_sentence(
    imgsearch: Callable[..., Run], class_folders: Path, address: str, code: int, words: str
) -> None:
    """Nothing is written, and Ray's own words stay away."""
    index = class_folders.parent / "none" / "index"
    run = imgsearch(
        *("build", class_folders, index, "--model", MODEL, "--on", "ray"), RAY_ADDRESS=address
    )
    assert not index.exists()
    assert (run.code, run.out) == (code, "")
    assert words in run.err
    assert len(run.err.splitlines()) == 1


def test_a_port_that_says_nothing_is_given_up(
    imgsearch: Callable[..., Run], class_folders: Path, tmp_path: Path
) -> None:
    """What listens there may be anything: it has a bounded time to be a cluster."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = imgsearch(
            *("build", class_folders, tmp_path / "index", "--model", MODEL, "--on", "ray"),
            RAY_ADDRESS=f"127.0.0.1:{silent.getsockname()[1]}",
        )
    assert (run.code, run.out) == (3, "")
    assert len(run.err.splitlines()) == 1


def test_without_the_package_a_sentence_names_it(class_folders: Path, tmp_path: Path) -> None:
    """Exit code 6, and the command that installs it."""
    program = "import sys; sys.modules['ray'] = None; from imgsearch.__main__ import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", program, "build", class_folders, tmp_path / "x", "--on", "ray"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert run.returncode == 6
    assert "pip install 'imgsearch-faiss[ray]'" in run.stderr


def test_only_local_and_ray_are_known(
    imgsearch: Callable[..., Run], class_folders: Path, tmp_path: Path
) -> None:
    """Another word is refused with those that there are."""
    run = imgsearch("build", class_folders, tmp_path / "index", "--on", "dask")
    assert (run.code, run.out) == (2, "")
    assert "local, ray" in run.err
