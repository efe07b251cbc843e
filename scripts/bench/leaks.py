"""Plant leaks of base pictures into a test set, and see which are found and what it costs.

    .venv/bin/python scripts/bench/leaks.py BASE TEST [MODEL] [--planted 40]

Of each kind (exact copy, cropped by 5%, encoded anew, mirrored, brightened, and all of the last
four at once) as many base pictures are copied into the test set, each into its own class. It prints
for each kind how many were found, how many pictures of the clean test set were taken for leaks
(false), and precision@5 of the clean set, of the set with leaks, of that without near-duplicates,
and what that should be: of the clean pictures their own, of a copy that of its picture asked
leave-one-out, which for exact copies is the same to the last digit. BASE and TEST should have no
picture in common: then any near-duplicate that a picture of TEST has is false.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections import Counter
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from imgsearch import EvaluationReport, SearchEngine, build_index, evaluate
from imgsearch.folders import find_images
from imgsearch.metrics import spread

K = 5


def cropped(image: Image.Image) -> Image.Image:
    """Cut 5% of either side away, half of it at each end."""
    width, height = (side * 0.025 for side in image.size)
    box = (width, height, image.width - width, image.height - height)
    return image.crop(tuple(round(side) for side in box))  # type: ignore[arg-type]


def tight(image: Image.Image) -> Image.Image:
    """Cut 5% away at each of the four edges."""
    return ImageOps.crop(image, round(0.05 * min(image.size)))


def bright(image: Image.Image, by: float = 1.25) -> Image.Image:
    """Brighten; what passes white is lost."""
    return ImageEnhance.Brightness(image).enhance(by)


KINDS = {
    "exact copy": None,
    "cropped by 5%": cropped,
    "cropped by 5% at each edge": tight,
    "encoded anew (JPEG 50)": lambda image: image,
    "mirrored": ImageOps.mirror,
    "brightened by a quarter": bright,
    "brightened by half": lambda image: bright(image, 1.5),
    "cropped, mirrored, brightened": lambda image: bright(ImageOps.mirror(cropped(image))),
}


def plant(base: Path, picked: list[str], target: Path, kind: str) -> None:
    """Write changed copies of base pictures into the folders of their classes."""
    change = KINDS[kind]
    for path in picked:
        place = target / Path(path).parent / f"leak-{Path(path).stem}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        data = (base / path).read_bytes()
        if change is not None:
            with Image.open(io.BytesIO(data)) as opened:
                out = io.BytesIO()
                changed = change(ImageOps.exif_transpose(opened).convert("RGB"))
                changed.save(out, "JPEG", quality=50 if "anew" in kind else 85)
            data = out.getvalue()
        place.write_bytes(data)


def main() -> None:
    """Plant, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("model", nargs="?", default="efficientnet-lite2")
    parser.add_argument("--planted", type=int, default=40)
    given = parser.parse_args()
    base, test = given.base.resolve(), given.test.resolve()
    listed = [item.path for item in find_images(base)[0]]
    picked = [listed[i] for i in spread(len(listed), min(given.planted, len(listed)))]
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        build_index(base, index, model=given.model)
        with SearchEngine.open(index) as engine:
            clean = evaluate(engine, test, K)
            assert clean.leakage is not None
            alarms = sum(bool(its) for its in clean.leakage.found)
            print(f"clean test set: {clean.n_queries} pictures, {alarms} taken for leaks")
            paths = engine.index.items.column("path")
            head = f"{'planted':32}{'found':>9}{'false':>7}"
            print(f"{head}{'clean':>9}{'leaked':>9}{'without':>9}{'should be':>11}  signs")
            alone = evaluate(engine, k=K)
            assert alone.leakage is not None
            of_path = dict(zip(paths, alone.values["precision_at_k"], strict=True))
            own = [of_path[path] or 0.0 for path in picked]
            wanted = (sum(own) + clean.overall["precision_at_k"] * clean.n_queries) / (
                len(own) + clean.n_queries
            )
            for number, kind in enumerate(KINDS):
                mixed = Path(folder) / f"test-{number}"
                for item in find_images(test)[0]:
                    place = mixed / item.path
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes((test / item.path).read_bytes())
                plant(base, picked, mixed, kind)
                report = evaluate(engine, mixed, K)
                _line(kind, report, clean.overall["precision_at_k"], wanted, paths, totals)
            found = sum(bool(its) for its in alone.leakage.found)
            print(
                f"leave-one-out: {found} of {alone.n_queries} base pictures have a near-duplicate"
            )
    others = totals["planted"] - totals["exact"]
    print(
        f"all kinds but exact: {totals['found'] / others:.1%} of {others} found; "
        f"false {totals['false']} of {totals['clean']} ({totals['false'] / totals['clean']:.2%})"
    )


def _line(  # noqa: PLR0917 - a line of a table
    kind: str,
    report: EvaluationReport,
    clean: float,
    wanted: float,
    paths: list[str],
    totals: Counter[str],
) -> None:
    """Print what became of one kind."""
    assert report.leakage is not None
    leaks = [result.query.rpartition("/")[2].startswith("leak-") for result in report.results]
    planted = sum(leaks)
    found = false = 0
    kept, precision = [], []
    without = report.leakage.without_near_duplicates.values["precision_at_k"]
    for leak, result, its, value in zip(
        leaks, report.results, report.leakage.found, without, strict=True
    ):
        # Found is who meets the very picture that it was made of.
        stem = Path(result.query).stem.removeprefix("leak-")
        found += leak and any(Path(paths[one.row]).stem == stem for one in its)
        false += not leak and bool(its)
        precision.append(value or 0.0)
        if not leak:
            kept.append(value or 0.0)
    totals["planted"] += planted
    totals["clean"] += len(kept)
    totals["false"] += false
    if kind == "exact copy":
        totals["exact"] += planted
    else:
        totals["found"] += found
    signs = ", ".join(f"{name} {n}" for name, n in report.leakage.signs.items() if n)
    print(
        f"{kind:32}{found:4} / {planted:<3}{false:6}{clean:9.4f}"
        f"{report.overall['precision_at_k']:9.4f}{sum(precision) / len(precision):9.4f}"
        f"{wanted:11.4f}"
        f" (of the clean {sum(kept) / len(kept):.4f})  {signs}"
    )


if __name__ == "__main__":
    main()
