"""Build or update an index on Ray and tell what was done: `python ray_build.py IMAGES INDEX`.

Prints {"asked": pictures that were sent to be embedded, "came": outcomes that were kept,
"count": rows} as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from imgsearch import build_index, clusters
from imgsearch.records import Running

if TYPE_CHECKING:
    from collections.abc import Generator


class Counted(clusters.Cluster):
    """Remembers how many pictures it was asked for, and how many outcomes it gave."""

    asked = came = 0

    def embed(self, place: Any, steps: Any, *rest: Any) -> Generator[Any, None, None]:  # noqa: ANN401 - passed on
        """See Cluster."""
        type(self).asked += len(steps)
        *others, keep = rest

        def counted(step: Any, outcome: Any) -> Any:  # noqa: ANN401 - passed on
            type(self).came += 1
            return keep(step, outcome)

        return super().embed(place, steps, *others, counted)


def main(images: str, index: str) -> None:
    """Build by the packaged network."""
    from imgsearch import build

    build.Cluster = Counted  # type: ignore[misc]
    summary = build_index(images, index, model="efficientnet-lite2", running=Running(on="ray"))
    told = {"asked": Counted.asked, "came": Counted.came, "count": summary.count}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
