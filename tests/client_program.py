"""A program that asks the service through a client made from its description: see test_client.py.

    python client_program.py URL KEY PICTURE ROW

Prints what it was told as JSON.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from rooms_client import AuthenticatedClient
from rooms_client.api.index import index
from rooms_client.api.items import image
from rooms_client.api.search import search, search_vector, similar
from rooms_client.models import (
    ErrorBody,
    IndexInfo,
    SearchBody,
    SearchResponse,
    SimilarScope,
    VectorQuestion,
)
from rooms_client.types import File, Unset


def told(answer: SearchResponse | ErrorBody | None) -> SearchResponse:
    """Return an answer that is one."""
    assert isinstance(answer, SearchResponse), answer
    return answer


def main(url: str, key: str, picture: Path, row: int) -> None:
    """Ask by row, by picture, and by the vector of the picture."""
    with AuthenticatedClient(url, key, prefix="", auth_header_name="X-API-Key") as client:
        info = index.sync(client=client)
        assert isinstance(info, IndexInfo)
        by_row = told(similar.sync(row, client=client, k=3, scope=SimilarScope.OTHER))
        sent = File(io.BytesIO(picture.read_bytes()), picture.name, "image/jpeg")
        label = next(iter(info.classes.to_dict()))
        body = SearchBody(sent, k=4, label=label, min_score=-1.0, vector=True)
        by_picture = told(search.sync(client=client, body=body))
        vector = by_picture.queries[0].vector
        assert vector is not None and not isinstance(vector, Unset)  # noqa: PT018 - for types
        by_vector = told(
            search_vector.sync(client=client, body=VectorQuestion(vector, label=label))
        )
        shown = image.sync(row, client=client, size=64)
        assert isinstance(shown, File)
        refused = similar.sync(info.count, client=client)
        assert isinstance(refused, ErrorBody)
    answers = {"row": by_row, "picture": by_picture, "vector": by_vector}
    found = {name: answer.queries[0].to_dict() for name, answer in answers.items()}
    size = len(shown.payload.read())
    print(json.dumps({**found, "error": refused.error, "label": label, "size": size}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
