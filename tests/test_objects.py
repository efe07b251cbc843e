"""Pictures in object storage, from a real S3 server: rclone's, which checks signatures."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import MODEL
from PIL import Image

from imgsearch import build_index
from imgsearch.errors import ImageDecodeError, InputError, NotFoundError
from imgsearch.index import open_index, read_manifest
from imgsearch.memory import WORK
from imgsearch.objects import GONE, Bucket
from imgsearch.places import place_of
from imgsearch.records import Limits
from imgsearch.web.thumbnails import Thumbnails

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Run

    from imgsearch.index import Index

RCLONE = Path(sys.executable).with_name("rclone")
PROGRAM = Path(sys.executable).with_name("imgsearch")
KEY, SECRET = "AKIDTEST", "a-secret-of-no-use"
SIZE = 1 << 29


class Server:
    """An S3 server whose buckets are the folders below `root`; it can be stopped and started."""

    def __init__(self, root: Path) -> None:
        """Choose a port; nothing runs yet."""
        self.root = root
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        # No cache of folders: what a test changes behind its back is seen at once.
        self._process = subprocess.Popen(
            [
                *(RCLONE, "serve", "s3", self.root, "--addr", f"127.0.0.1:{self.port}"),
                *("--auth-key", f"{KEY},{SECRET}", "--dir-cache-time", "0s"),
                *("--vfs-cache-mode", "off", "--config", os.devnull),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.05)
        pytest.fail("the S3 server did not start")

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run one server, and put it into the environment of all commands."""
    one = Server(tmp_path_factory.mktemp("s3"))
    one.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{one.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_REGION", "us-east-1")
        yield one
    one.stop()


@pytest.fixture
def bucket(server: Server, class_folders: Path, request: pytest.FixtureRequest) -> Path:
    """Return the folder behind a new bucket: 12 pictures, an odd name, a hidden and a bad file."""
    name = f"b{abs(hash(request.node.name)):x}"
    folder = shutil.copytree(class_folders, server.root / name)
    first = next(iter(sorted((folder / "alpha").iterdir())))
    for odd in ("alpha-b/x.jpg", "ü +%20/ä%2F&=?#.jpg", "top.jpg"):
        (folder / odd).parent.mkdir(exist_ok=True)
        (folder / odd).write_bytes(first.read_bytes() + odd.encode())
    (folder / "beta" / ".hidden.jpg").write_bytes(first.read_bytes())
    (folder / "beta" / "bad.jpg").write_bytes(b"no picture")
    (folder / "beta" / "empty.jpg").write_bytes(b"")
    return folder


def url(bucket: Path) -> str:
    """Return the address of a bucket."""
    return f"s3://{bucket.name}"


def rows(index: Index) -> list[tuple[object, ...]]:
    """Return all facts of the rows but the time, which S3 keeps in whole seconds or thousandths."""
    return [(i.path, i.label, i.sha256, i.width, i.height, i.size) for i in index.items.all()]


def assert_same(one: Index, other: Index) -> None:
    """Hold two indexes to the same rows, vectors and skips."""
    assert rows(one) == rows(other)
    assert one.skips == other.skips
    assert np.array_equal(np.asarray(one.vectors.rows), np.asarray(other.vectors.rows))


def test_a_bucket_makes_the_index_of_its_folder(bucket: Path, tmp_path: Path) -> None:
    """Same order, rows, vectors and skips; the manifest has the address and no credentials."""
    here = tmp_path / "here"
    build_index(bucket, here, model=MODEL)
    there = tmp_path / "there"
    build_index(f"{url(bucket)}/", there, model=MODEL)
    assert_same(open_index(there), open_index(here))
    assert read_manifest(there).image_root == url(bucket)
    for file in there.iterdir():
        assert SECRET.encode() not in file.read_bytes()
        assert KEY.encode() not in file.read_bytes()


def test_the_commands_work_on_it(
    imgsearch: Callable[..., Run], bucket: Path, tmp_path: Path
) -> None:
    """Build a part of a bucket, search by row with pictures, evaluate, prepare."""
    run = imgsearch("build", url(bucket), "index", "--model", MODEL, "--json", cwd=tmp_path)
    assert run.code == 0, run.err
    assert run.json["count"] == 15
    index = tmp_path / "indexes" / "index"
    run = imgsearch("search", index, "row:1", "-k", "2", "--grid", "grid.png", cwd=tmp_path)
    assert run.code == 0, run.err
    with Image.open(tmp_path / "grid.png") as grid:
        colours = grid.convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 5000  # photos, not the grey of missing ones
    run = imgsearch("evaluate", index, "--json")
    assert run.code == 0, run.err
    assert run.json["n_queries"] == 15
    run = imgsearch("prepare", f"{url(bucket)}/alpha", tmp_path / "small", "--size", "64x48")
    assert run.code == 0, run.err
    assert len(list((tmp_path / "small").iterdir())) == 4


def test_an_update_reads_only_what_is_new(bucket: Path, tmp_path: Path) -> None:
    """Unchanged objects are known by size and time; moved ones keep their vector; gone ones go."""
    index = tmp_path / "index"
    old = time.time() - 100
    for file in bucket.rglob("*.jpg"):
        os.utime(file, (old, old))
    build_index(url(bucket), index, model=MODEL)
    before = open_index(index)
    files = sorted((bucket / "alpha").iterdir())
    (bucket / "gamma" / "moved.jpg").write_bytes(files[0].read_bytes())
    files[0].unlink()
    files[1].write_bytes(files[2].read_bytes() + b"!")
    program = (
        "import json, sys; from imgsearch import update_index;"
        "from imgsearch.objects import Bucket;"
        "read, seen = Bucket.read, [];"
        "Bucket.read = lambda self, path, *rest: (seen.append(path), read(self, path, *rest))[1];"
        "print(json.dumps([update_index(sys.argv[1]).to_dict(), sorted(set(seen))]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, index], capture_output=True, check=True, text=True
    )
    told, seen = json.loads(run.stdout)
    assert (told["moved"], told["changed"], told["added"], told["removed"]) == (1, 1, 0, 0)
    assert told["embedded"] == 1
    assert seen == [f"alpha/{files[1].name}", "gamma/moved.jpg"]
    after = open_index(index)
    kept = {i.path: row for row, i in enumerate(before.items.all())}
    moved = {i.path: row for row, i in enumerate(after.items.all())}
    assert np.array_equal(
        after.vectors.rows[moved["gamma/moved.jpg"]],
        before.vectors.rows[kept[f"alpha/{files[0].name}"]],
    )


def reading(bucket: Path, index: Path) -> subprocess.Popen[str]:
    """Begin a build of 60 pictures more, and wait until they are read."""
    for i in range(60):
        source = sorted((bucket / "gamma").iterdir())[i % 4]
        (bucket / "gamma" / f"{i:02d}.jpg").write_bytes(source.read_bytes() + bytes([i]))
    child = subprocess.Popen(
        [PROGRAM, "build", url(bucket), index, "--model", MODEL],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not (index / WORK).exists() and child.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return child


def test_a_server_that_comes_back_costs_nothing(
    server: Server, bucket: Path, tmp_path: Path
) -> None:
    """It is killed while pictures are read, and no picture is missing from the index."""
    child = reading(bucket, tmp_path / "there")
    server.stop()
    time.sleep(1)
    server.start()
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    build_index(bucket, tmp_path / "here", model=MODEL)
    assert_same(open_index(tmp_path / "there"), open_index(tmp_path / "here"))


def test_a_server_that_is_gone_ends_the_run(
    imgsearch: Callable[..., Run], bucket: Path, tmp_path: Path
) -> None:
    """Exit 3 with a sentence, after some attempts, and no index."""
    run = imgsearch(
        *("build", url(bucket), tmp_path / "index", "--model", MODEL),
        AWS_ENDPOINT_URL="http://127.0.0.1:1",
    )
    assert (run.code, run.out) == (3, "")
    assert "cannot be reached, tried 6 times" in run.err
    assert len(run.err.splitlines()) == 1
    assert not (tmp_path / "index").exists()


def test_ctrl_c_is_heard_while_the_server_is_away(
    server: Server, bucket: Path, tmp_path: Path
) -> None:
    """The attempts of all readers end at once."""
    child = reading(bucket, tmp_path / "there")
    server.stop()
    try:
        time.sleep(1.5)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=8)  # the attempts alone would take 15 s
    finally:
        server.start()
    assert (child.returncode, err) == (130, "interrupted\n")


def test_what_cannot_be_listed_is_not_found(
    imgsearch: Callable[..., Run], bucket: Path, tmp_path: Path
) -> None:
    """No such bucket, nothing below a prefix, a wrong secret: exit 3 and one sentence each."""
    for address, words, secret in (
        ("s3://no-such-bucket", "NO_SUCH_BUCKET", SECRET),
        (f"{url(bucket)}/none", "there is nothing at", SECRET),
        (url(bucket), "SIGNATURE_DOES_NOT_MATCH", "wrong"),
    ):
        run = imgsearch("build", address, tmp_path / "index", AWS_SECRET_ACCESS_KEY=secret)
        assert (run.code, run.out) == (3, "")
        assert words in run.err
        assert len(run.err.splitlines()) == 1


def test_an_object_is_skipped_for_its_own_fault_only(server: Server, bucket: Path) -> None:
    """One that is gone or too large is; with a revoked key none is."""
    place = Bucket(url(bucket))
    items, _ = place.find()
    assert place.content_sum("nothing.jpg", SIZE) is None
    with pytest.raises(ImageDecodeError) as gone:
        place.read("nothing.jpg", SIZE)
    assert gone.value.reason == GONE
    with pytest.raises(ImageDecodeError, match="more than 10"):
        place.read(items[0].path, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "revoked")
        # Another name of the same server has a connection, and with it credentials, of its own.
        patch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{server.port}")
        with pytest.raises(NotFoundError, match="lets us in no more"):
            Bucket(url(bucket)).read(items[0].path, SIZE)


def test_few_bytes_wait_for_a_decoder(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody takes is not read beyond the bytes that may wait."""
    monkeypatch.setattr("imgsearch.objects._BYTES_AHEAD", 100_000)
    for i in range(40):
        (bucket / f"{i:02d}.bin").write_bytes(bytes(30_000))
    place = Bucket(url(bucket))
    items, _ = place.find()
    paths = [item.path for item in items if item.path.endswith(".bin")]
    begun: list[str] = []
    read = place.read

    def counted(path: str, *rest: object) -> bytes:
        begun.append(path)
        return read(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(place, "read", counted)
    with place.sources(paths, SIZE) as sources:
        first = next(sources)
        time.sleep(0.5)
        assert begun == paths[:3]
        assert first.fetch is not None
        assert len(first.fetch(SIZE)) == 30_000
        got = [first.name]
        for source in sources:
            assert source.fetch is not None
            source.fetch(SIZE)
            got.append(source.name)
    assert got == paths


def test_readers_end_with_the_run(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving in the middle of attempts at a dead server leaves no thread that goes on asking."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    place = Bucket(url(bucket), states={})
    with place.sources([f"{i}.jpg" for i in range(50)], SIZE) as sources:
        next(sources)
    end = time.monotonic() + 10
    while any(one.name.startswith("imgsearch-objects") for one in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_service_shows_pictures_of_a_bucket(server: Server, bucket: Path, tmp_path: Path) -> None:
    """As a small JPEG; where the storage is away the answer does not say where it is."""
    index = tmp_path / "index"
    build_index(url(bucket), index, model=MODEL)
    item = open_index(index).items.item(0)
    thumbnails = Thumbnails(Limits(), 1 << 20)
    try:
        data = thumbnails.get(url(bucket), item.path, item.sha256 or "", 64).result()
        with Image.open(io.BytesIO(data)) as picture:
            assert max(picture.size) == 64
        server.stop()
        with pytest.raises(NotFoundError) as refused:
            thumbnails.get(url(bucket), item.path, "another", 64).result()
        assert bucket.name not in str(refused.value)
    finally:
        server.start()
        thumbnails.close()


@pytest.mark.parametrize(
    "address", ["s3://", "s3:///x", "s3://b/../c", "s3://b//c", "s3://id:secret@b/c"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """Credentials in an address are refused, too, and not shown."""
    with pytest.raises(InputError) as refused:
        place_of(address)
    assert "id:secret" not in str(refused.value)


def test_workers_of_a_cluster_read_for_themselves(
    imgsearch: Callable[..., Run], bucket: Path, tmp_path: Path
) -> None:
    """On Ray the index is the same, and the driver reads no picture but the bad ones."""
    build_index(bucket, tmp_path / "here", model=MODEL)
    run = imgsearch(
        *("build", url(bucket), tmp_path / "there", "--model", MODEL, "--on", "ray", "--json"),
        RAY_ADDRESS="",
    )
    assert run.code == 0, run.err
    one, other = open_index(tmp_path / "there"), open_index(tmp_path / "here")
    assert rows(one) == rows(other)
    assert one.skips == other.skips
    assert np.abs(np.asarray(one.vectors.rows) - np.asarray(other.vectors.rows)).max() < 1e-5
