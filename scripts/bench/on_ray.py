"""Builds on Ray beside local ones: equal, cheap, and nothing finished is embedded twice.

    .venv/bin/python scripts/bench/on_ray.py PHOTOS [--only equal kills cost] [--model NAME]

PHOTOS is a folder of class folders; pictures are repeated with other last bytes until there are
enough. `equal`: 500 pictures, 10 of them spoilt and one that kills its process, on one machine and
on two nodes. `kills`: drivers killed at random moments, then nodes. `cost`: 1,000 pictures. (The
file is not called ray.py, which would stand before the package.) Prints a table; ends with 1 if
anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgsearch.clusters import DIED
from imgsearch.index import open_index
from imgsearch.memory import _RECORD, WORK

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
PROGRAM = Path(sys.executable).with_name("imgsearch")
EQUAL, BAD, KILLED, COST = 500, 10, 200, 1000
TOLERANCE = 1e-5
MOST_START, MOST_TIMES = 10.0, 1.1


def pictures(photos: Path, folder: Path, number: int) -> Path:
    """Fill class folders with pictures, no two of the same content."""
    files = sorted(file for file in photos.rglob("*") if file.is_file())
    for i in range(number):
        source = files[i % len(files)]
        target = folder / source.parent.name
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{i:05d}.jpg").write_bytes(source.read_bytes() + i.to_bytes(4, "big"))
    return folder


def environment(address: str) -> dict[str, str]:
    """Return what a command on a cluster gets: its address, and the deadly format."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(TESTS / "killer")]))
    return {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": path}


def build(images: Path, index: Path, model: str, *words: str, address: str = "") -> dict[str, Any]:
    """Run the command; return its document, with the seconds that all of it took."""
    shutil.rmtree(index, ignore_errors=True)
    started = time.perf_counter()
    run = subprocess.run(  # noqa: S603 - our own program
        [PROGRAM, "build", images, index, "--model", model, "--json", *words],
        stdout=subprocess.PIPE,
        check=True,
        env=environment(address),
    )
    told: dict[str, Any] = json.loads(run.stdout)
    return {**told, "whole": time.perf_counter() - started}


def difference(one: Path, other: Path) -> float:
    """Return the largest difference of two indexes' numbers; infinite where rows differ."""
    a, b = open_index(one), open_index(other)
    if a.items.all() != b.items.all():
        return float("inf")
    return float(np.abs(np.asarray(a.vectors.rows) - np.asarray(b.vectors.rows)).max())


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[str, Any]]:
    """Run a cluster; yield its address and who takes the orders `kill` and `add`."""
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, TESTS / "ray_nodes.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**environment(""), "RAY_USAGE_STATS_ENABLED": "0"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()

        def do(order: str) -> None:
            process.stdin.write(f"{order}\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            assert process.stdout.readline() == "done\n"  # type: ignore[union-attr]

        yield address, do
        process.stdin.close()


def equal(photos: Path, work: Path, model: str) -> int:
    """Compare the indexes of a local build, of Ray on one machine and of two nodes."""
    images = pictures(photos, work / "equal", EQUAL - BAD - 1)
    first = min(images.iterdir())
    for i in range(BAD):
        (first / f"bad{i}.jpg").write_bytes(b"\xff\xd8\xff" + bytes([i]) * 1000)
    build(images, work / "local", model)
    (first / "killer.jpg").write_bytes(b"KILLER")
    skips = open_index(work / "local").skips
    failed = 0
    with two_nodes() as (address, _):
        for name, where in (("Ray on one machine", ""), ("Ray on two nodes", address)):
            told = build(images, work / "ray", model, "--on", "ray", address=where)
            apart = difference(work / "ray", work / "local")
            found = open_index(work / "ray").skips
            others = tuple(skip for skip in found if not skip.path.endswith("killer.jpg"))
            named = [skip.reason for skip in found if skip.path.endswith("killer.jpg")] == [DIED]
            good = apart <= TOLERANCE and others == skips and named
            failed += not good
            print(
                f"{name}: {told['count']} rows, {len(found)} skips, the killer "
                f"{'named' if named else 'NOT NAMED'}, numbers at most {apart:.1e} apart, "
                f"{told['whole']:.1f} s: {'equal' if good else 'NOT EQUAL'}",
                flush=True,
            )
    shutil.rmtree(images)
    return failed


def records(index: Path) -> int:
    """Count the pictures that an unfinished build has kept whole."""
    number = 0
    with contextlib.suppress(FileNotFoundError):
        for file in (index / WORK).iterdir():
            data, at = file.read_bytes(), 0
            while at + _RECORD.size <= len(data):
                header, vector, _ = _RECORD.unpack_from(data, at)
                at += _RECORD.size + header + vector
                number += at <= len(data)
    return number


def counted(images: Path, index: Path, address: str) -> subprocess.Popen[str]:
    """Start a build that tells how many pictures it asked for, and how many came."""
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, TESTS / "ray_build.py", images, index],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(address),
    )


def kills(photos: Path, work: Path, model: str, drivers: int, nodes: int) -> int:
    """Kill drivers, then nodes, at random moments of the embedding."""
    images = pictures(photos, work / "killed", KILLED)
    build(images, work / "local", model)
    index, failed, kept = work / "ray", 0, []
    chance = random.Random(8)  # noqa: S311 - no secret
    with two_nodes() as (address, do):
        for _ in range(drivers):
            shutil.rmtree(index, ignore_errors=True)
            until = chance.randrange(KILLED - 20)
            child = counted(images, index, address)
            while records(index) <= until and child.poll() is None:
                time.sleep(0.02)
            child.kill()
            child.communicate()
            before = records(index)
            out, _ = counted(images, index, address).communicate()
            told = json.loads(out)
            good = told["asked"] == told["came"] == KILLED - before and told["count"] == KILLED
            good = good and difference(index, work / "local") <= TOLERANCE
            failed += not good
            kept.append(before)
        print(f"drivers killed: {drivers}, {failed} failed; pictures finished by then: {kept}")
        wrong = 0
        moments = []
        for _ in range(nodes):
            shutil.rmtree(index, ignore_errors=True)
            until = chance.randrange(KILLED - 60)
            child = counted(images, index, address)
            while records(index) <= until and child.poll() is None:
                time.sleep(0.02)
            moments.append(records(index))
            do("kill")
            out, _ = child.communicate()
            told = json.loads(out)
            good = told["asked"] == told["came"] == told["count"] == KILLED
            good = good and difference(index, work / "local") <= TOLERANCE
            wrong += not good
            do("add")
        print(f"nodes killed: {nodes}, {wrong} failed; pictures finished by then: {moments}")
    shutil.rmtree(images)
    return failed + wrong


def cost(photos: Path, work: Path, model: str, rounds: int) -> int:
    """Time Ray on this machine beside a local build, in turn."""
    images = pictures(photos, work / "cost", COST)
    failed = 0
    for _ in range(rounds):
        local = build(images, work / "local", model)["whole"]
        there = build(images, work / "ray", model, "--on", "ray")["whole"]
        good = there <= MOST_START + MOST_TIMES * local
        failed += not good
        print(
            f"{COST} pictures: local {local:.1f} s, Ray {there:.1f} s, which is "
            f"{there - local:+.1f} s; at most {MOST_START + MOST_TIMES * local:.1f}: "
            f"{'kept' if good else 'NOT KEPT'}",
            flush=True,
        )
    shutil.rmtree(images)
    return failed


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--only", nargs="+", default=["equal", "kills", "cost"])
    parser.add_argument("--model", default="efficientnet-lite2")
    parser.add_argument("--drivers", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if "equal" in given.only:
            failed += equal(given.photos, work, given.model)
        if "kills" in given.only:
            failed += kills(given.photos, work, given.model, given.drivers, given.nodes)
        if "cost" in given.only:
            failed += cost(given.photos, work, given.model, given.rounds)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
