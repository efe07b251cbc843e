"""Let schemathesis ask a running service all that its OpenAPI description allows, and what not.

    .venv/bin/python scripts/bench/schema.py PHOTOS [--examples 1000] [--seed N]

PHOTOS is a folder of class folders. The service is the installed command, with an API key; all
checks of schemathesis are on, and schemathesis.toml beside this file says which refusals it may
expect. Half of the labels, rows, pictures and vectors are made up, half can be answered: which
answers came is printed at the end. `scripts/setup test` installs schemathesis in an environment of
its own. Ends with 1 where a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families
from service import MODEL, Served

from imgsearch import build_index
from imgsearch.index import read_manifest

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

HERE = Path(__file__).resolve().parent
TOOL = HERE.parents[1] / ".venv" / "tools" / "bin" / "schemathesis"
KEY = "a-key-for-schemathesis"


# Half of these are some that the index has.
LABELS = ("query.label", "query.query_label", "query.match_label", "body.label")
ROWS = ("path.row",)


def configured(labels: list[str], count: int) -> str:
    """Return the configuration for an index with these labels and so many rows."""
    lines = [(HERE / "schemathesis.toml").read_text(encoding="utf-8")]
    for name, values in (("labels", labels), ("rows", list(range(count)))):
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(values, ensure_ascii=False)}"]
    lines.append("[parameters]")
    for name, places in (("labels", LABELS), ("rows", ROWS)):
        bound = f'{{ dictionary = "{name}", probability = 0.5 }}'
        lines += [f'"{place}" = {bound}' for place in places]
    return "\n".join(lines)


def check(index: Path, photos: Path, examples: int, seed: int | None) -> int:
    """Run schemathesis on a service of an index, and return its exit code."""
    manifest = read_manifest(index)
    known = {
        "dim": manifest.dim,
        "pictures": [str(file) for file in sorted(photos.rglob("*.jpg"))[:20]],
    }
    config = index.with_name("schemathesis.toml")
    config.write_text(configured(list(manifest.classes), manifest.count), encoding="utf-8")
    served = Served(index, "--api-key", KEY)
    words = [TOOL, "--config-file", config, "run", f"{served.url}/openapi.json"]
    words += ["--header", f"X-API-Key: {KEY}", "--max-examples", str(examples), "--no-color"]
    words += ["--continue-on-failure", "--generation-database", "none"]
    words += [] if seed is None else ["--seed", str(seed)]
    variables = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "SCHEMATHESIS_HOOKS": "schema_hooks",
        "SCHEMA_KNOWN": json.dumps(known),
    }
    before = served.memory()
    done = subprocess.run(words, env=variables, cwd=index.parent, check=False)  # noqa: S603 - ours
    with served.client() as client:
        figures = client.get("/metrics", headers={"x-api-key": KEY}).text
    for family in text_string_to_metric_families(figures):
        if family.name == "imgsearch_http_requests":
            tell(family.samples)
    print(f"memory of the service: {before:.0f} MB before, {served.memory():.0f} MB after")
    served.end()
    return done.returncode


def tell(samples: list[Sample]) -> None:
    """Print how often each route answered with which status."""
    found: dict[str, dict[str, int]] = {}
    for sample in samples:
        if sample.name.endswith("_total"):
            statuses = found.setdefault(sample.labels["route"], {})
            status = sample.labels["status"]
            statuses[status] = statuses.get(status, 0) + int(sample.value)
    for route, statuses in sorted(found.items()):
        print(f"{route:28}", ", ".join(f"{key} x {statuses[key]:,}" for key in sorted(statuses)))


def main() -> int:
    """Build, serve, and let it ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="schema-") as name:
        index = Path(name) / "rooms"
        build_index(given.photos, index, model=MODEL)
        return check(index, given.photos, given.examples, given.seed)


if __name__ == "__main__":
    sys.exit(main())
