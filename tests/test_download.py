"""Fetching weights: whole, checked and in place, or nothing at all. A real server is asked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imgsearch import MissingWeightsError, WriteError, download
from imgsearch.weights import WeightsSpec, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Run

# The command itself, with one address exchanged in the table of models.
COMMAND = """
import sys
from imgsearch import backbones, cli
from imgsearch.weights import WeightsSpec
first, *others = backbones.MODELS
published = (WeightsSpec("IMAGENET1K_V1", sys.argv[1]),)
backbones.MODELS = (backbones.with_weights(first, published), *others)
cli.main(sys.argv[2:])
"""
# What the command does first: the file alone, which need not be a network's.
FETCH = """
import sys
from imgsearch.weights import WeightsSpec, fetch
print(fetch(WeightsSpec("IMAGENET1K_V1", sys.argv[1]), "resnet50")[1])
"""
SECONDS = 60


class Host:
    """An HTTP server that sends files, each address in its own manner: /MANNER/FILE."""

    def __init__(self) -> None:
        """Listen on a free port, in a thread."""
        host = self
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.release = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.requests.append(self.path)
                host.answer(self, *self.path.strip("/").split("/"))

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that is gone is what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, manner: str, name: str) -> str:
        """Return the address at which a file comes in this manner."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{manner}/{name}"

    def answer(self, request: BaseHTTPRequestHandler, manner: str, name: str) -> None:
        """Send a file in one of the manners."""
        data = self.files[name]
        half = len(data) // 2
        if manner == "missing":
            request.send_error(404)
            return
        request.send_response(200)
        if manner != "unsaid":
            request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if manner == "wrong":
            data = bytes([data[0] ^ 1]) + data[1:]
        if manner in {"right", "unsaid", "wrong"}:
            request.wfile.write(data)
            return
        request.wfile.write(data[:half])
        request.wfile.flush()
        if manner == "slow":
            self.release.wait(SECONDS)
            request.wfile.write(data[half:])
        elif manner == "reset":
            now = struct.pack("ii", 1, 0)  # closing then sends a reset
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
            request.connection.close()


@pytest.fixture
def host() -> Iterator[Host]:
    """Return a server that has one file of 3 MB, `host.files`' only key."""
    server = Host()
    data = np.random.default_rng(0).bytes(3_000_000)
    server.files[f"resnet50-{hashlib.sha256(data).hexdigest()[:8]}.pth"] = data
    yield server
    server.close()


@pytest.fixture
def name(host: Host) -> str:
    """Return the name of the server's file."""
    return next(iter(host.files))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that weights go to in this test; it does not exist yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def start(program: str, *words: str) -> subprocess.Popen[str]:
    """Start a Python program with words as its arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a program; return its exit code and both outputs."""
    out, err = child.communicate(timeout=SECONDS)
    return child.returncode, out, err


def wait_for(fact: Callable[[], object]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + SECONDS
    while not fact():
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.02)


def files_in(folder: Path) -> list[str]:
    """Return the names of all files, sorted; none where there is no folder."""
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def test_right_file_is_fetched_once(
    host: Host, place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """ResNet-50's file comes once, lands where torch keeps it under its own name, and loads."""
    import torch
    import torchvision

    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("official") / "resnet50.pth"
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), file)
    data = file.read_bytes()
    total = hashlib.sha256(data).hexdigest()
    name = f"resnet50-{total[:8]}.pth"
    host.files[name] = data
    url = host.url("right", name)
    code, out, err = finish(start(COMMAND, url, "models", "fetch", "resnet50", "--json"))
    assert code == 0, err
    assert json.loads(out) == {
        "model": "resnet50",
        "weights": "IMAGENET1K_V1",
        "sha256": total,
        "dim": 2048,
    }
    assert not err  # progress is for terminals
    assert finish(start(FETCH, url)) == (0, f"{total}\n", "")
    assert files_in(place) == [name]
    assert (place / name).read_bytes() == data
    # torch itself takes the file for its own and asks the server for nothing.
    torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True)
    assert host.requests == [f"/right/{name}"]


def test_file_can_be_read_by_others(host: Host, name: str, place: Path) -> None:
    """The file has the rights that the umask gives, so that a shared TORCH_HOME can be shared."""
    before = os.umask(0o022)
    try:
        fetch(WeightsSpec("W", host.url("right", name)), "resnet50")
    finally:
        os.umask(before)
    assert stat.S_IMODE((place / name).stat().st_mode) == 0o644


def test_size_need_not_be_stated(host: Host, name: str, place: Path) -> None:
    """A server that does not say how long the file is serves as well: the hash decides."""
    file, total = fetch(WeightsSpec("W", host.url("unsaid", name)), "resnet50")
    assert file == place / name
    assert total == hashlib.sha256(host.files[name]).hexdigest()


@pytest.mark.parametrize(
    ("manner", "said"),
    [
        ("wrong", r"what came has the sha256 [0-9a-f]{8}\.\.\., not [0-9a-f]{8}\.\.\."),
        ("cut", r"the connection ended (after 1,500,000 of 3,000,000 bytes|before all)"),
        ("reset", r"Connection reset|the connection ended"),
        ("missing", r"the server answers 404 Not Found"),
        ("gone", r"Connection refused"),
    ],
)
def test_failed_download_leaves_nothing(
    host: Host, name: str, place: Path, manner: str, said: str
) -> None:
    """Wrong hash, cut off, reset, 404, no server: exit 6, the three ways on, and no file."""
    url = host.url(manner, name)
    if manner == "gone":
        host.close()
    code, out, err = finish(start(COMMAND, url, "models", "fetch", "resnet50"))
    assert code == 6
    assert not out
    assert err.count("\n") == 1
    assert re.search(said, err), err
    assert url in err
    assert str(place) in err
    assert "--weights FILE" in err
    assert "--model efficientnet-lite2" in err
    assert files_in(place) == []


def test_no_network_names_three_ways(
    imgsearch: Callable[..., Run], tmp_path: Path, class_folders: Path
) -> None:
    """Without a network `models fetch resnet50` and `build` end with 6, soon, and say what next."""
    nowhere = {
        "TORCH_HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "no_proxy": "",
        "NO_PROXY": "",
    }
    started = time.monotonic()
    for words in (["models", "fetch", "resnet50"], ["build", class_folders, tmp_path / "index"]):
        run = imgsearch(*words, **nowhere)
        assert run.code == 6
        assert not run.out
        assert "https://download.pytorch.org/models/resnet50-0676ba61.pth" in run.err
        assert "--weights FILE" in run.err
        assert "--model efficientnet-lite2" in run.err
        assert run.err.count("\n") == 1
    assert time.monotonic() - started < 20
    assert files_in(tmp_path / "hub" / "checkpoints") == []
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_silent_server_is_given_up(
    host: Host, name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that stops sending in the middle is given up after a time, and nothing is left."""
    monkeypatch.setattr(download, "_SILENCE", 0.3)
    with pytest.raises(MissingWeightsError, match="timed out"):
        fetch(WeightsSpec("W", host.url("slow", name)), "resnet50")
    assert files_in(place) == []


def test_killed_download_is_cleared_away(host: Host, name: str, place: Path) -> None:
    """A download killed half-way never shows the file; the next removes its part and no other's."""
    slow = host.url("slow", name)
    killed, running = start(FETCH, slow), start(FETCH, slow)
    wait_for(lambda: len(files_in(place)) == 2)
    wait_for(lambda: all(file.stat().st_size for file in place.iterdir()))
    assert not (place / name).exists()
    killed.kill()
    assert finish(killed)[0] == -signal.SIGKILL
    assert len(files_in(place)) == 2  # nobody was left to remove it

    code, _, err = finish(start(FETCH, host.url("right", name)))
    assert code == 0, err
    left = files_in(place)
    assert len(left) == 2  # the whole file, and the part of the one that still runs
    assert name in left

    host.release.set()
    code, _, err = finish(running)
    assert code == 0, err
    assert files_in(place) == [name]
    assert (place / name).read_bytes() == host.files[name]


def test_left_over_goes_when_the_file_is_there_already(host: Host, name: str, place: Path) -> None:
    """The part of a killed download goes at the next load, also where nothing is to be fetched."""
    place.mkdir(parents=True)
    (place / name).write_bytes(host.files[name])
    (place / f"{name}.0123{download.PART}").write_bytes(b"half")
    (place / "somebody-else.partial").write_bytes(b"of another program")
    fetch(WeightsSpec("W", host.url("right", name)), "resnet50")
    assert files_in(place) == [name, "somebody-else.partial"]
    assert not host.requests


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_download_leaves_nothing(
    host: Host, name: str, place: Path, number: signal.Signals, code: int
) -> None:
    """Ctrl-C and SIGTERM in the middle of a download leave nothing behind."""
    child = start(COMMAND, host.url("slow", name), "models", "fetch", "resnet50")
    wait_for(lambda: files_in(place))
    child.send_signal(number)
    assert finish(child)[0] == code
    assert files_in(place) == []


def test_two_at_once(host: Host, name: str, place: Path) -> None:
    """Two processes that fetch the same file at the same time both get it."""
    children = [start(FETCH, host.url("slow", name)) for _ in range(2)]
    wait_for(lambda: len(host.requests) == 2)
    host.release.set()
    total = hashlib.sha256(host.files[name]).hexdigest()
    for child in children:
        assert finish(child) == (0, f"{total}\n", "")
    assert files_in(place) == [name]


def test_spoilt_file_is_refused(host: Host, name: str, place: Path) -> None:
    """A file in place whose hash is not that of its name ends with 6 and is not touched."""
    place.mkdir(parents=True)
    (place / name).write_bytes(host.files[name][:-1])
    code, out, err = finish(start(COMMAND, host.url("right", name), "models", "fetch", "resnet50"))
    assert code == 6
    assert not out
    assert re.search(r"is spoilt \(its sha256 begins with [0-9a-f]{8} and its name says", err)
    assert "remove it" in err
    assert not host.requests
    assert (place / name).stat().st_size == len(host.files[name]) - 1


def test_folder_in_place_of_the_file(host: Host, name: str, place: Path) -> None:
    """A folder where the file should be is refused in words."""
    (place / name).mkdir(parents=True)
    with pytest.raises(MissingWeightsError, match="is no file: remove it"):
        fetch(WeightsSpec("W", host.url("right", name)), "resnet50")


def test_place_that_cannot_be_written(host: Host, name: str, tmp_path: Path) -> None:
    """A TORCH_HOME that is a file ends with 7 and names the variable; the server is not asked."""
    (tmp_path / "torch").write_text("in the way")
    child = subprocess.run(
        [sys.executable, "-c", COMMAND, host.url("right", name), "models", "fetch", "resnet50"],
        env={**os.environ, "TORCH_HOME": str(tmp_path / "torch")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 7
    assert not child.stdout
    assert "cannot be written" in child.stderr
    assert "TORCH_HOME" in child.stderr
    assert child.stderr.count("\n") == 1
    assert not host.requests


def test_no_room_for_the_file(host: Host, name: str, place: Path) -> None:
    """A file that does not fit (a limit plays the full disk) ends with 7 and leaves nothing."""
    limited = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", sys.executable, "-c", COMMAND]
    child = subprocess.run(
        [*limited, host.url("right", name), "models", "fetch", "resnet50"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 7, child.stderr
    assert "File too large" in child.stderr
    assert files_in(place) == []


def test_write_error_names_the_folder(host: Host, name: str, place: Path) -> None:
    """In Python the same is a WriteError."""
    place.parent.mkdir(parents=True)
    place.write_text("in the way")
    with pytest.raises(WriteError, match=re.escape(str(place))):
        fetch(WeightsSpec("W", host.url("right", name)), "resnet50")


@pytest.mark.usefixtures("place")
def test_progress_is_for_terminals(host: Host, name: str) -> None:
    """On a terminal a download tells on standard error how far it is; standard output is clean."""
    ours, theirs = os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", FETCH, host.url("right", name)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    out, _ = child.communicate(timeout=SECONDS)
    told = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert child.returncode == 0
    assert out == hashlib.sha256(host.files[name]).hexdigest() + "\n"
    assert f"fetching {name}: 3 of 3 MB" in told
    assert 5 <= told.count("\n") <= 10
