"""Exact look-alike search over labelled pictures, with honest numbers on how classes separate.

    from imgsearch import build_index, SearchEngine, evaluate

Importing this costs neither torch nor faiss: each name is loaded when it is first used. The same
things as commands: `imgsearch --help`, docs/cli.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from imgsearch.auditing import audit
    from imgsearch.build import build_index
    from imgsearch.comparison import compare
    from imgsearch.duplicates import Cuts
    from imgsearch.errors import (
        ImageDecodeError,
        ImgsearchError,
        IndexCorruptError,
        IndexExistsError,
        IndexLockedError,
        IndexVersionError,
        InputError,
        LabelFileError,
        MissingError,
        MissingPackageError,
        MissingWeightsError,
        ModelMismatchError,
        NoImagesError,
        NotFoundError,
        QueryError,
        SupersededError,
        UnreachableError,
        WriteError,
    )
    from imgsearch.evaluation import evaluate
    from imgsearch.importing import import_vectors
    from imgsearch.learning import learn
    from imgsearch.opening import verify
    from imgsearch.preparing import prepare
    from imgsearch.pushing import push
    from imgsearch.records import (
        AuditReport,
        BuildSummary,
        Change,
        ClassShare,
        ComparisonReport,
        Correspondence,
        DuplicateGroup,
        EvaluationReport,
        Hub,
        LabelIssue,
        Leak,
        Leakage,
        LearnSummary,
        Limits,
        Match,
        Near,
        Outlier,
        Overlap,
        PrepareSummary,
        PushSummary,
        Resemblance,
        Running,
        SearchResult,
        Skip,
        UpdateSummary,
        Without,
    )
    from imgsearch.search import SearchEngine
    from imgsearch.update import update_index

_HOME = {
    "Cuts": "duplicates",
    "audit": "auditing",
    "build_index": "build",
    "compare": "comparison",
    "evaluate": "evaluation",
    "import_vectors": "importing",
    "learn": "learning",
    "prepare": "preparing",
    "update_index": "update",
    "push": "pushing",
    "verify": "opening",
    "SearchEngine": "search",
    **dict.fromkeys(
        (
            "AuditReport",
            "BuildSummary",
            "Change",
            "ClassShare",
            "ComparisonReport",
            "Correspondence",
            "DuplicateGroup",
            "EvaluationReport",
            "Hub",
            "LabelIssue",
            "Leak",
            "LearnSummary",
            "Leakage",
            "Limits",
            "Match",
            "Near",
            "Outlier",
            "Overlap",
            "PrepareSummary",
            "PushSummary",
            "Resemblance",
            "Running",
            "SearchResult",
            "Skip",
            "UpdateSummary",
            "Without",
        ),
        "records",
    ),
    **dict.fromkeys(
        (
            "ImageDecodeError",
            "ImgsearchError",
            "IndexCorruptError",
            "IndexExistsError",
            "IndexLockedError",
            "IndexVersionError",
            "InputError",
            "LabelFileError",
            "MissingError",
            "MissingPackageError",
            "MissingWeightsError",
            "ModelMismatchError",
            "NoImagesError",
            "NotFoundError",
            "QueryError",
            "SupersededError",
            "UnreachableError",
            "WriteError",
        ),
        "errors",
    ),
}

__all__ = [
    "AuditReport",
    "BuildSummary",
    "Change",
    "ClassShare",
    "ComparisonReport",
    "Correspondence",
    "Cuts",
    "DuplicateGroup",
    "EvaluationReport",
    "Hub",
    "ImageDecodeError",
    "ImgsearchError",
    "IndexCorruptError",
    "IndexExistsError",
    "IndexLockedError",
    "IndexVersionError",
    "InputError",
    "LabelFileError",
    "LabelIssue",
    "Leak",
    "Leakage",
    "LearnSummary",
    "Limits",
    "Match",
    "MissingError",
    "MissingPackageError",
    "MissingWeightsError",
    "ModelMismatchError",
    "Near",
    "NoImagesError",
    "NotFoundError",
    "Outlier",
    "Overlap",
    "PrepareSummary",
    "PushSummary",
    "QueryError",
    "Resemblance",
    "Running",
    "SearchEngine",
    "SearchResult",
    "Skip",
    "SupersededError",
    "UnreachableError",
    "UpdateSummary",
    "Without",
    "WriteError",
    "__version__",
    "audit",
    "build_index",
    "compare",
    "evaluate",
    "import_vectors",
    "learn",
    "prepare",
    "push",
    "update_index",
    "verify",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Load a public name from its room when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'imgsearch' has no attribute '{name}'")
    value = getattr(import_module(f"imgsearch.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
