"""What one picture may cost, and that it costs no other: bombs, limits, killed processes."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from imgsearch.decoding import DecoderPool, Source
from imgsearch.errors import ImageDecodeError, ImgsearchError
from imgsearch.records import DecodedImage, Limits, Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from conftest import Run

V1 = Preprocess(256, 224, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
MIB = 1 << 20
# A busy machine is slow; none of the waits below comes near this.
PATIENCE = 30.0


def saved(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    """Return an image as a file of this format."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


GOOD = saved(Image.new("RGB", (40, 30), (10, 200, 60)))


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def long_tiff(rows: int) -> bytes:
    """Return a TIFF one pixel wide with a strip for every row, all of them the same byte."""
    offsets = 8 + 2 + 12 * 9 + 4
    sizes = offsets + 4 * rows
    tags = [(256, 4, 1, 1), (257, 4, 1, rows), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, rows, offsets), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, rows, sizes)]
    out = b"II" + struct.pack("<HIH", 42, 8, len(tags))
    out += b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return out + struct.pack("<I", 8) * rows + struct.pack("<I", 1) * rows


@pytest.fixture(scope="module")
def slow() -> bytes:
    """Return a TIFF of 16 MB with 2 million strips, which takes many seconds to open."""
    return long_tiff(2_000_000)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    """Return one decoder with the limits of the product."""
    with DecoderPool(1) as decoders:
        yield decoders


def ask(pool: DecoderPool, data: bytes, name: str = "it") -> DecodedImage | str:
    """Return the decoded picture, or the reason why there is none."""
    (outcome,) = pool.inputs([Source(name, data=data)], V1, ahead=1)
    return outcome.reason if isinstance(outcome, ImageDecodeError) else outcome


def pids(pool: DecoderPool) -> list[int]:
    """Return the process numbers of a pool's decoders."""
    return sorted(process.child.pid for process in list(pool._all))


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def peak(pid: int) -> int:
    """Return the most memory that a process ever held, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def wait_for(true: Callable[[], bool]) -> bool:
    """Wait until something is true; False when it does not come to pass."""
    end = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


# Pixels.


def tiff_head(width: int, height: int) -> bytes:
    """Return an RGB TIFF of this size with hardly any pixels in it."""
    tags: list[tuple[int, int, int]] = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 5),
        (262, 3, 2),
    ]
    tags += [(273, 4, 200), (277, 3, 3), (278, 4, height), (279, 4, 50)]
    out = b"II" + struct.pack("<HIH", 42, 8, len(tags))
    for tag, kind, value in tags:
        out += struct.pack("<HHII", tag, kind, 1, value)
    return out.ljust(200, b"\0") + bytes(50)


def png_head(width: int, height: int) -> bytes:
    """Return an RGB PNG of this size with hardly any pixels in it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


def icon(width: int, height: int) -> bytes:
    """Return an icon of 16 x 16 by its own words, whose PNG inside has this size."""
    inside = png_head(width, height)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inside


def webp_head(width: int, height: int) -> bytes:
    """Return an extended WebP with a canvas of this size."""
    with_alpha = Image.new("RGBA", (8, 8), (1, 2, 3, 4))
    inner = saved(with_alpha, "WEBP")[12:]
    start = inner.index(b"VP8X")
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = inner[: start + 12] + canvas + inner[start + 18 :]
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


BOMBS: dict[str, Callable[[int, int], bytes]] = {
    "PNG": png_head,
    "GIF": lambda w, h: (
        b"GIF89a" + struct.pack("<HHBBB", w, h, 0, 0, 0) + saved(Image.new("P", (2, 2)), "GIF")[13:]
    ),
    "BMP": lambda w, h: (
        saved(Image.new("RGB", (2, 2)), "BMP")[:18]
        + struct.pack("<ii", w, h)
        + saved(Image.new("RGB", (2, 2)), "BMP")[26:]
    ),
    "TIFF": tiff_head,
    "WEBP": webp_head,
    "ICO": icon,
    "PPM": lambda w, h: b"P6 %d %d 255\n" % (w, h) + bytes(100),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_before_it_is_decoded(kind: str) -> None:
    """A file of a few bytes that says it has 1,600 megapixels: refused at once, in no memory.

    The same file with a small header is refused for another reason, or is a picture.
    """
    bomb = BOMBS[kind](40_000, 40_000)
    assert len(bomb) < 2000
    with DecoderPool(1) as pool:
        assert isinstance(ask(pool, GOOD), DecodedImage)
        (pid,) = pids(pool)
        before = peak(pid)
        started = time.monotonic()
        assert ask(pool, bomb) == "its 1,600,000,000 pixels are more than 89,478,485"
        assert time.monotonic() - started < 2
        assert peak(pid) - before < 32 * MIB
        assert pids(pool) == [pid]
        harmless = ask(pool, BOMBS[kind](40, 40))
        assert isinstance(harmless, DecodedImage) or "pixels" not in harmless


def test_the_limit_on_pixels_is_exact() -> None:
    """As many pixels as allowed are decoded and one row more is not, in formats of each sort."""
    for most in (1200, 1201):
        with DecoderPool(1, Limits(pixels=most)) as pool:
            for kind in ("PNG", "WEBP", "GIF", "TIFF", "AVIF", "BMP"):
                fits = ask(pool, saved(Image.new("RGB", (40, 30)), kind))
                assert isinstance(fits, DecodedImage), (kind, fits)
                too_many = ask(pool, saved(Image.new("RGB", (40, 31)), kind))
                assert too_many == f"its 1,240 pixels are more than {most:,}"


@pytest.fixture(scope="module")
def huge_jpeg() -> bytes:
    """Return a grey ramp of 20,000 x 10,000 pixels: 200 megapixels in some 2 MB."""
    ramp = Image.linear_gradient("L").rotate(90).resize((20_000, 10_000), Image.Resampling.BOX)
    return saved(ramp, "JPEG", quality=20)


def test_a_huge_jpeg_is_scaled_down_by_its_decoder(huge_jpeg: bytes) -> None:
    """200 megapixels are accepted in 64 MiB, and what is recorded is the real size."""
    with DecoderPool(1, Limits(memory=64 * MIB)) as pool:
        got = ask(pool, huge_jpeg)
        assert isinstance(got, DecodedImage)
        assert (got.width, got.height) == (20_000, 10_000)
        row = got.pixels[112, :, 0].astype(float)
        # The middle square shows the middle half of the ramp.
        assert abs(abs(row[0] - row[-1]) - 255 / 2 * 224 / 256) < 5
        with Image.open(io.BytesIO(pool.jpeg(Source("it", data=huge_jpeg), 100, 100))) as small:
            assert small.size == (100, 50)


def test_a_jpeg_beyond_its_decoders_scaling_is_refused(huge_jpeg: bytes) -> None:
    """An eighth of each side is the least that a JPEG's decoder makes; more than that is a skip."""
    with DecoderPool(1, Limits(pixels=3_125_000)) as pool:
        assert isinstance(ask(pool, huge_jpeg), DecodedImage)
    with DecoderPool(1, Limits(pixels=3_124_999)) as pool:
        assert ask(pool, huge_jpeg) == "its 3,125,000 pixels are more than 3,124,999"


# Bytes, time and memory.


def test_a_file_above_the_limit_of_bytes_is_not_read(tmp_path: Path) -> None:
    """The limit holds for files and for bytes in memory, to the byte."""
    file = tmp_path / "it.png"
    file.write_bytes(GOOD)
    for size, fits in ((len(GOOD), True), (len(GOOD) - 1, False)):
        with DecoderPool(1, Limits(size=size)) as pool:
            for source in (Source("it", str(file)), Source("it", data=GOOD)):
                if fits:
                    assert pool.input(source, V1).size == len(GOOD)
                else:
                    reason = f"its {len(GOOD)} bytes are more than {size}"
                    with pytest.raises(ImageDecodeError, match=reason):
                        pool.input(source, V1)
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as stream:
        stream.truncate(1 << 40)
    with DecoderPool(1) as pool, pytest.raises(ImageDecodeError, match="1,099,511,627,776 bytes"):
        pool.input(Source("it", str(sparse)), V1)


def test_what_is_recorded_of_a_file(pool: DecoderPool, tmp_path: Path) -> None:
    """Sum, size in bytes and time of change are the file's own."""
    import hashlib

    file = tmp_path / "it.png"
    file.write_bytes(GOOD)
    os.utime(file, ns=(1, 1_234_567_890_123_456_789))
    got = pool.input(Source("it", str(file)), V1)
    assert got.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert (got.size, got.mtime_ns) == (len(GOOD), 1_234_567_890_123_456_789)
    assert (got.width, got.height) == (40, 30)
    assert (got.pixels == (10, 200, 60)).all()


def test_a_slow_picture_costs_itself_only(slow: bytes) -> None:
    """A picture beyond the limit of time is a skip after that time, and the next one is fine."""
    sources = [Source(str(i), data=data) for i, data in enumerate((GOOD, slow, GOOD, GOOD))]
    with DecoderPool(1, Limits(seconds=1)) as pool:
        assert isinstance(ask(pool, GOOD), DecodedImage)
        started = time.monotonic()
        outcomes = list(pool.inputs(sources, V1, ahead=4))
        assert time.monotonic() - started < PATIENCE
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [DecodedImage, ImageDecodeError, DecodedImage, DecodedImage]
    assert isinstance(outcomes[1], ImageDecodeError)
    assert outcomes[1].reason == "it takes more than 1 s to open"


def test_a_hungry_picture_costs_itself_only() -> None:
    """A picture beyond the limit of memory is a skip with that reason, and the next one is fine.

    With the memory that it needs, it is a picture.
    """
    hungry = saved(Image.new("RGB", (6000, 5000)), "PNG", compress_level=1)
    sources = [Source(str(i), data=data) for i, data in enumerate((GOOD, hungry, GOOD))]
    for limit in (64 * MIB, 400 * MIB):
        with DecoderPool(1, Limits(memory=limit)) as pool:
            outcomes = list(pool.inputs(sources, V1, ahead=3))
        reasons = [getattr(outcome, "reason", None) for outcome in outcomes]
        if limit == 64 * MIB:
            assert reasons == [None, "it needs more memory than one picture may take", None]
        else:
            assert reasons == [None, None, None]


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "P"])
def test_a_picture_of_many_pixels_fits_into_the_limits(mode: str) -> None:
    """80 megapixels with alpha or of 16 bits pass by the limits of the product."""
    width, height = 10_000, 8_000
    large = Image.new(mode, (width, height), 0)
    data = saved(large, "PNG", compress_level=1)
    del large
    # The network's part is not asked for: this machine's speed is not what is tested.
    with DecoderPool(1, Limits(seconds=60)) as pool:
        got = ask(pool, data)
        assert isinstance(got, DecodedImage), got
        assert (got.width, got.height) == (width, height)


def test_a_pipe_is_no_picture(tmp_path: Path, pool: DecoderPool) -> None:
    """A FIFO that nobody writes to is refused at once, and so is a folder."""
    fifo = tmp_path / "pipe.jpg"
    os.mkfifo(fifo)
    started = time.monotonic()
    for place in (fifo, tmp_path):
        with pytest.raises(ImageDecodeError, match="it is not a regular file"):
            pool.input(Source("it", str(place)), V1)
    with pytest.raises(ImageDecodeError, match="there is no such file"):
        pool.input(Source("it", str(tmp_path / "none.jpg")), V1)
    assert time.monotonic() - started < 5


# Processes.


def sources_of(folder: Path) -> list[Source]:
    """Return 40 pictures."""
    files = sorted(folder.iterdir())
    return [Source(str(i), str(file)) for i, file in enumerate([*files, files[0]])][:40]


def sums(outcomes: Sequence[DecodedImage | ImageDecodeError]) -> list[tuple[str, bytes]]:
    """Return what was decoded, fit to compare."""
    got = [outcome for outcome in outcomes if isinstance(outcome, DecodedImage)]
    assert len(got) == len(outcomes)
    return [(image.sha256, image.pixels.tobytes()) for image in got]


def test_the_answers_come_in_order_whatever_the_number_of_workers(small_photos: Path) -> None:
    """1 and 3 workers, with little and much ahead, give the same 40 answers in order."""
    sources = sources_of(small_photos)
    answers = []
    for workers, ahead in ((1, 1), (3, 2), (3, 40)):
        with DecoderPool(workers) as pool:
            answers.append(sums(list(pool.inputs(sources, V1, ahead))))
            assert len(pids(pool)) <= workers
    assert answers[0] == answers[1] == answers[2]


def test_a_decoder_killed_from_outside_loses_no_picture(small_photos: Path) -> None:
    """Every decoder is killed three times over 40 pictures: all 40 come, in order and the same."""
    sources = sources_of(small_photos)
    with DecoderPool(2) as pool:
        calm = sums(list(pool.inputs(sources, V1, ahead=8)))
    killed = set()
    outcomes = []
    with DecoderPool(2) as pool:
        for number, outcome in enumerate(pool.inputs(sources, V1, ahead=8)):
            outcomes.append(outcome)
            if number in {2, 15, 28}:
                for pid in pids(pool):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
    assert sums(outcomes) == calm
    assert len(killed) >= 3


def test_a_decoder_killed_while_it_waits_loses_no_picture() -> None:
    """A decoder that was killed between two pictures is replaced without a word."""
    with DecoderPool(1) as pool:
        for _ in range(3):
            assert isinstance(ask(pool, GOOD), DecodedImage)
            (pid,) = pids(pool)
            os.kill(pid, signal.SIGKILL)


def test_a_picture_that_kills_its_decoder_twice_is_given_up(slow: bytes) -> None:
    """The second process that dies over a picture is the last; the next picture is fine."""
    with DecoderPool(1, Limits(seconds=60)) as pool:
        assert isinstance(ask(pool, GOOD), DecodedImage)
        answers: list[DecodedImage | str] = []
        thread = threading.Thread(target=lambda: answers.append(ask(pool, slow)))
        thread.start()
        killed: list[int] = []
        while len(killed) < 2:
            assert wait_for(lambda: bool(set(pids(pool)) - set(killed)))
            time.sleep(0.3)  # it holds the picture now
            killed.extend(set(pids(pool)) - set(killed))
            os.kill(killed[-1], signal.SIGKILL)
        thread.join(PATIENCE)
        assert answers == ["its decoder died twice over it"]
        assert isinstance(ask(pool, GOOD), DecodedImage)
        assert not set(pids(pool)) & set(killed)


def test_no_process_is_left_after_close(small_photos: Path) -> None:
    """Closing ends idle and busy decoders at once; a closed pool says so."""
    sources = sources_of(small_photos)
    pool = DecoderPool(2)
    stream = pool.inputs(sources, V1, ahead=10)
    next(stream)
    busy = pids(pool)
    assert busy
    assert all(alive(pid) for pid in busy)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 5
    assert not any(alive(pid) for pid in busy)
    with pytest.raises((ImgsearchError, RuntimeError)):
        pool.input(sources[0], V1)
    pool.close()


def test_close_does_not_wait_for_a_slow_picture(slow: bytes) -> None:
    """A picture that takes long is given up when its pool is closed, from another thread too."""
    pool = DecoderPool(1, Limits(seconds=60))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            pool.input(Source("slow", data=slow), V1)
        except (ImgsearchError, RuntimeError) as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert wait_for(lambda: bool(pids(pool)))
    time.sleep(0.2)
    (pid,) = pids(pool)
    started = time.monotonic()
    pool.close()
    thread.join(PATIENCE)
    assert time.monotonic() - started < 3
    assert len(failures) == 1
    assert not alive(pid)


def test_no_process_is_left_after_an_exception(small_photos: Path) -> None:
    """An error in whoever uses the pictures ends the decoders, too."""

    def fail(pool: DecoderPool) -> None:
        for _ in pool.inputs(sources_of(small_photos), V1, ahead=10):
            seen.extend(pids(pool))
            raise ZeroDivisionError

    seen: list[int] = []
    with pytest.raises(ZeroDivisionError), DecoderPool(2) as pool:
        fail(pool)
    assert seen
    assert not any(alive(pid) for pid in seen)


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after_name = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2]
            if int(after_name.split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize(
    ("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_no_process_is_left_after_a_signal(
    sign: signal.Signals, code: int, photos: list[Path], tmp_path: Path
) -> None:
    """Ctrl-C, SIGTERM and SIGKILL of the command end its decoders, with the right exit code.

    Half a copy is never left behind by the first two.
    """
    dest = tmp_path / "copies"
    program = Path(sys.executable).with_name("imgsearch")
    command = subprocess.Popen(
        [program, "prepare", photos[0].parent, dest, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert wait_for(lambda: dest.is_dir() and len(list(dest.iterdir())) > 1)
        decoders = children(command.pid)
        assert len(decoders) == 2
        command.send_signal(sign)
        out, err = command.communicate(timeout=PATIENCE)
    finally:
        command.kill()
        command.wait()
    assert command.returncode == code
    assert out == b""
    assert b"Traceback" not in err
    assert wait_for(lambda: not any(alive(pid) for pid in decoders))
    if sign != signal.SIGKILL:
        assert not any(alive(pid) for pid in children(command.pid))
        for copy in dest.iterdir():
            with Image.open(copy) as image:
                image.load()
                assert image.size == (1028, 768)
    assert len(list(dest.iterdir())) < len(photos)


# What others print.


def noisy_tiff() -> bytes:
    """Return a TIFF of which libtiff complains on standard error, around Python."""
    ramp = Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64))
    data = bytearray(saved_compressed(ramp))
    data[8:40] = b"\xff" * 32
    return bytes(data)


def saved_compressed(image: Image.Image) -> bytes:
    """Return an image as LZW TIFF."""
    out = io.BytesIO()
    image.save(out, "TIFF", compression="tiff_lzw")
    return out.getvalue()


def test_what_decoding_libraries_print_does_not_reach_the_terminal(
    imgsearch: Callable[..., Run], tmp_path: Path
) -> None:
    """Pillow alone lets libtiff print on standard error; the command prints its own lines only."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "noisy.tif").write_bytes(noisy_tiff())
    (folder / "good.png").write_bytes(GOOD)
    alone = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from PIL import Image; Image.open(sys.argv[1]).load()",
            folder / "noisy.tif",
        ],
        check=False,
        capture_output=True,
    )
    assert alone.stderr.partition(b"Traceback")[0].strip()
    run = imgsearch("prepare", folder, tmp_path / "copies", "--size", "64x48")
    assert run.code == 0
    lines = run.err.splitlines()
    assert lines[0] == "1 file skipped:"
    assert lines[1].startswith("  noisy.tif: it is cut off or spoilt (")
    assert len(lines) == 2


def test_a_decoder_needs_nothing_of_its_callers_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PIL.py or json.py in the current folder is not taken for the real one."""
    for name in ("PIL.py", "json.py", "imgsearch.py"):
        (tmp_path / name).write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    with DecoderPool(1) as pool:
        assert isinstance(ask(pool, GOOD), DecodedImage)


def test_warnings_are_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns of an animation of no pictures; with PYTHONWARNINGS=error it is opened still."""
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    warned = GOOD[:33] + chunk(b"acTL", bytes(8)) + GOOD[33:]
    with pytest.warns(UserWarning, match="Invalid APNG"), Image.open(io.BytesIO(warned)):
        pass
    with DecoderPool(1) as pool:
        assert isinstance(ask(pool, warned), DecodedImage)


@pytest.mark.parametrize(
    "said", [b"\xff" * 8, struct.pack(">II", 4, 0) + b"what"], ids=["lengths", "header"]
)
def test_a_decoder_that_talks_nonsense_is_replaced(said: bytes) -> None:
    """Bytes that are no answer cost a decoder and no memory; the picture gets a fresh one."""
    with DecoderPool(1) as pool:
        assert isinstance(ask(pool, GOOD), DecodedImage)
        (pid,) = pids(pool)
        (process,) = pool._all
        assert process.child.stdout is not None
        ours = Path(f"/proc/self/fd/{process.child.stdout.fileno()}").readlink()
        ends = Path(f"/proc/{pid}/fd").iterdir()
        answers = next(end for end in ends if end.readlink() == ours)
        with answers.open("wb", buffering=0) as pipe:
            pipe.write(said)
        assert isinstance(ask(pool, GOOD), DecodedImage)
        assert pid not in pids(pool)


def test_a_crash_leaves_no_core_file() -> None:
    """A decoder may not write a core file, whatever the user's shell allows."""
    with DecoderPool(1) as pool:
        assert isinstance(ask(pool, GOOD), DecodedImage)
        (pid,) = pids(pool)
        lines = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
        (core,) = (line for line in lines if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]
