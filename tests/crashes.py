"""A program for test_crash.py: it breaks a writer in many ways and prints what is left, as JSON.

    python crashes.py kill|ENOSPC|EIO FOLDER [onward]    break each change of a commit
    python crashes.py build FOLDER                       kill builds at random moments
    python crashes.py read FOLDER                        list what reading changes

It is a program of its own because it forks, and because an audit hook stays. The hook sees every
opening, renaming, removing and making of a folder before it happens; syncs are seen beside it.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from helpers import write_index

import imgsearch
from imgsearch.index import info, read_manifest
from imgsearch.manifest import is_data_name

if TYPE_CHECKING:
    from collections.abc import Callable

LABELS = ["a", "b", "a", "b"]
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CANNOT_WRITE, UNFORESEEN = 7, 1


def watch(folder: Path, seen: Callable[[str], None]) -> None:
    """Call `seen` with every change below a folder, before it happens."""
    root = str(folder)

    def hook(event: str, values: tuple[Any, ...]) -> None:
        path = values[0] if values else None
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(root):
            return
        if event in CHANGES or (event == "open" and values[2] & FOR_WRITING):
            seen(f"{event} {Path(path).name}")

    sync = os.fsync

    def synced(descriptor: int) -> None:
        seen("fsync")
        sync(descriptor)

    os.fsync = synced  # type: ignore[assignment]  # nothing else tells of a sync
    sys.addaudithook(hook)


def write(folder: Path, seed: int) -> None:
    """Commit a generation that is told by its seed."""
    rows = np.random.default_rng(seed).standard_normal((4, 8))
    write_index(folder, rows, LABELS)


def sums(folder: Path) -> list[str]:
    """Return the sums of the generation that is there."""
    return sorted(entry.sha256 for entry in read_manifest(folder).files.values())


def left_over(folder: Path) -> list[str]:
    """Return the files that no manifest names."""
    named = "".join((folder / name).read_text() for name in ("manifest.json", "previous.json"))
    return sorted(
        file.name
        for file in folder.iterdir()
        if ".part" in file.name or (is_data_name(file.name) and file.name not in named)
    )


def broken(folder: Path, how: str, at: int, *, onward: bool) -> dict[str, Any]:
    """Commit in a child whose change number `at` is broken; tell how it ended and what is left."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        number = 0

        def seen(change: str) -> None:
            nonlocal number
            number += 1
            if number == at or (onward and number > at):
                os.write(tell, f"{change}\n".encode())
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(getattr(errno, how), "refused")

        watch(folder, seen)
        try:
            write(folder, 3)
        except imgsearch.WriteError:
            os._exit(CANNOT_WRITE)
        except BaseException:  # noqa: BLE001 - whatever it is, it must not be
            os._exit(UNFORESEEN)
        os._exit(0)
    os.close(tell)
    with os.fdopen(told) as pipe:
        changes = pipe.read().splitlines()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"at": at, "changes": changes, "code": code}


def break_commits(how: str, folder: Path, *, onward: bool) -> list[dict[str, Any]]:
    """Break each change of a commit in turn."""
    template, index = folder / "template", folder / "index"
    generations = []
    for seed in (1, 2, 3):
        write(template, seed)
        generations.append(sums(template))
        if seed == 2:
            shutil.copytree(template, folder / "before")
    found = []
    for at in range(1, 1000):
        shutil.rmtree(index, ignore_errors=True)
        shutil.copytree(folder / "before", index)
        entry = broken(index, how, at, onward=onward)
        if not entry["changes"]:
            break
        entry["problems"] = imgsearch.verify(index)
        entry["generation"] = 1 + generations.index(sums(index))
        write(index, 3)
        entry["next"] = [*imgsearch.verify(index), *left_over(index)]
        found.append(entry)
    return found


def kill_builds(folder: Path, times: int = 6) -> list[dict[str, Any]]:
    """Kill builds at random moments; what each left must be whole, and the last must complete."""
    sys.path.append(str(Path(__file__).parent.parent / "scripts" / "bench"))
    import tiny

    chance = random.Random(5)  # noqa: S311 - a series that can be repeated
    tiny.preload()
    photos = tiny.Photos(folder / "photos", 60)
    model, index = tiny.make_model(folder / "tiny.onnx"), folder / "index"

    def build() -> None:
        running = imgsearch.Running(workers=1)
        imgsearch.build_index(photos.folder, index, model=model, overwrite=True, running=running)

    def start() -> int:
        child = os.fork()
        if child == 0:
            build()
            os._exit(0)
        return child

    started = time.monotonic()
    assert os.waitpid(start(), 0)[1] == 0
    took = time.monotonic() - started
    found = []
    for _ in range(times):
        before = sums(index)
        photos.add()
        child = start()
        time.sleep(chance.uniform(0, took))
        decoders = tiny.children(child)
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        entry: dict[str, Any] = {"code": code, "problems": imgsearch.verify(index)}
        entry["old"] = sums(index) == before
        entry["pictures"] = read_manifest(index).count == len(photos.files())
        entry["ended"] = tiny.ended(decoders)
        found.append(entry)
    assert os.waitpid(start(), 0)[1] == 0
    whole = read_manifest(index).count == len(photos.files()) and not left_over(index)
    return [*found, {"last": whole and not (index / ".work").exists()}]


def read(folder: Path) -> list[str]:
    """Open, ask and check an index; return all that was changed in its folder by that."""
    index = folder / "index"
    write(index, 1)
    changes: list[str] = []
    watch(index, changes.append)
    with imgsearch.SearchEngine.open(index) as engine:
        engine.by_row(0)
        info(index, engine.index.manifest)
        engine.index.skipped()
    imgsearch.verify(index)
    seen = len(changes)
    (index / "probe").write_bytes(b"")  # the watch does see changes
    assert changes[seen:] == ["open probe"]
    return changes[:seen]


def main() -> None:
    """Do what was asked for."""
    how, folder, *more = sys.argv[1:]
    place = Path(folder)
    if how == "build":
        found: Any = kill_builds(place)
    elif how == "read":
        found = read(place)
    else:
        found = break_commits(how, place, onward=more == ["onward"])
    print(json.dumps(found))  # noqa: T201 - its result


if __name__ == "__main__":
    main()
