"""What all pages share: how they are rendered, and pictures of which each is in the file once."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2 import Environment
    from markupsafe import Markup

    Thumbnail = Callable[[str], bytes | None]

# Where a page states its own size: no name can hold this, as each is escaped.
SIZE = "<!--size-->"
_DASH = "\N{EN DASH}"
# Pictures that are asked for at once; decoding is done elsewhere, the threads only wait.
_TOGETHER, _LOT = 8, 64


def page_environment() -> Environment:
    """Return what renders pages: all that is printed is made harmless for the eye, then escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("imgsearch"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    environment.filters["sha256"] = _csp_hash
    environment.filters["percent"] = percent
    return environment


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def percent(value: float | None) -> str:
    """Write a share with two decimals, a dash where there is none."""
    return _DASH if value is None or math.isnan(value) else f"{value:.2%}"


def as_data(value: Any) -> Markup:  # noqa: ANN401 - whatever JSON can hold
    """Write JSON in which no character can end its element."""
    from markupsafe import Markup

    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704


def with_size(page: str) -> str:
    """Write into a finished page how large it is."""
    head, _, tail = page.rpartition(SIZE)
    return f"{head}{megabytes(len(page.encode()))}{tail}"


def megabytes(size: int) -> str:
    """'1.2 MB'."""
    return f"{size / 1e6:.1f} MB"


class Pictures:
    """The pictures of a page, each as one CSS class that many places can wear.

    In three steps: `number` plans a picture, in the order of importance; `load` fetches all that
    are planned; `shown` says which class a planned picture wears, if it came to be.
    """

    def __init__(self, most: int | None = None, most_bytes: int | None = None) -> None:
        """At most so many pictures are planned, and so many bytes of JPEG embedded."""
        self._most, self._most_bytes = most, most_bytes
        self._by_file: dict[str, int] = {}
        self._classes: list[int | None] = []
        self._embedded: dict[bytes, int] = {}
        self.bytes = 0

    def __len__(self) -> int:
        """How many are planned."""
        return len(self._by_file)

    @property
    def embedded(self) -> int:
        """How many different pictures are in the page."""
        return len(self._embedded)

    def known(self, file: str | None) -> int | None:
        """Return the number of a picture that is planned already."""
        return None if file is None else self._by_file.get(file)

    def number(self, file: str | None, most: int | None = None) -> int | None:
        """Plan a picture; None where it has no file, or there is no room for another.

        `most` is how many may be planned after this one, where that is less than what the whole
        page may have.
        """
        if file is None:
            return None
        if file not in self._by_file:
            room = [limit for limit in (most, self._most) if limit is not None]
            if room and len(self._by_file) >= min(room):
                return None
            self._by_file[file] = len(self._by_file)
        return self._by_file[file]

    def load(
        self, thumbnail: Thumbnail, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Fetch what is planned, as small JPEGs, until there is no room for more bytes."""
        files = iter(self._by_file)
        with ThreadPoolExecutor(_TOGETHER) as threads:
            # The first one alone: whatever opens pictures may begin with it.
            lot = list(islice(files, 1))
            while lot:
                for jpeg in threads.map(thumbnail, lot):
                    self._classes.append(self._keep(jpeg))
                if progress is not None:
                    progress(len(self._classes), len(self._by_file))
                lot = list(islice(files, _LOT))

    def _keep(self, jpeg: bytes | None) -> int | None:
        if not jpeg:
            return None
        if jpeg in self._embedded:
            return self._embedded[jpeg]
        if self._most_bytes is not None and self.bytes + len(jpeg) > self._most_bytes:
            return None
        self.bytes += len(jpeg)
        return self._embedded.setdefault(jpeg, len(self._embedded))

    def shown(self, number: int | None) -> int | None:
        """Return the class of a planned picture, None where there is none to show."""
        return None if number is None else self._classes[number]

    def style(self) -> Markup:
        """One rule per picture: base64 of our own making, no name from outside is in it."""
        from markupsafe import Markup

        return Markup(  # noqa: S704
            "\n".join(
                f".p{i}{{background-image:url(data:image/jpeg;base64,"
                f"{base64.b64encode(jpeg).decode()})}}"
                for jpeg, i in self._embedded.items()
            )
        )
