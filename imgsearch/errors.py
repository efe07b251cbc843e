"""Every error that imgsearch raises on purpose, and the exit code it ends a command with.

    ImgsearchError
    |-- InputError (2)               what was given cannot be used
    |   |-- ImageDecodeError         a file that is not a whole picture
    |   |-- LabelFileError           a label file with wrong columns, paths or values
    |   |-- NoImagesError            nothing is left to index or to ask with
    |   |-- IndexExistsError         build without --overwrite on an index that exists
    |   `-- QueryError               a row, vector, scope or label that the index cannot answer
    |-- NotFoundError (3)            a path or an index that is not there
    |   `-- UnreachableError         a server that does not answer
    |       `-- SupersededError      newer generations have taken the place of the one asked
    |-- IndexCorruptError (4)        the index on disk cannot be trusted
    |   `-- IndexVersionError        written by a newer release
    |-- ModelMismatchError (5)       index and model disagree
    |   `-- UnknownModelError        nobody said which model made the vectors
    |-- MissingError (6)             something must be installed or fetched first
    |   |-- MissingPackageError
    |   `-- MissingWeightsError
    |-- WriteError (7)               the result cannot be written
    |   `-- IndexLockedError         another writer is at work
    |-- OverloadedError              a service has more to do than it can
    `-- NotReadyError                a service has not begun, or is about to end

An error carries its facts as attributes. Its text is one sentence that says what is wrong and
what to do next. Errors of other libraries are translated where that library is called.
"""

from __future__ import annotations

from typing import ClassVar

from imgsearch.text import printable


class ImgsearchError(Exception):
    """Root of the tree; `exit_code` is what a command ends with."""

    exit_code: ClassVar[int] = 1


class InputError(ImgsearchError):
    """What was given cannot be used."""

    exit_code = 2


class ImageDecodeError(InputError):
    """A file that is not a whole picture; `path` names it and `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        """Keep the facts; the text is made of both."""
        super().__init__(f"{printable(path)} cannot be used as a picture: {reason}")
        self.path = path
        self.reason = reason


class LabelFileError(InputError):
    """A label file with wrong columns, paths or values."""


class NoImagesError(InputError):
    """Nothing is left to index or to ask with."""


class IndexExistsError(InputError):
    """`build` was asked to write where an index is already; `index` is its folder."""

    def __init__(self, index: str) -> None:
        """Keep the folder."""
        super().__init__(
            f"there is already an index at {index}; add --overwrite to replace it, "
            "or choose another name"
        )
        self.index = index


class QueryError(InputError):
    """A row, vector, scope or label that the index cannot answer."""


class NotFoundError(ImgsearchError):
    """A path or an index that is not there."""

    exit_code = 3


class UnreachableError(NotFoundError):
    """The server that holds an index does not answer, or not with all of it."""


class SupersededError(UnreachableError):
    """The server does not hold this generation any more: newer ones were pushed."""


class IndexCorruptError(ImgsearchError):
    """A file of the index has the wrong size, shape or sum; `file` names it."""

    exit_code = 4

    def __init__(self, file: str, problem: str) -> None:
        """Keep the facts; the text is made of both."""
        super().__init__(f"{file} cannot be trusted: {problem}")
        self.file = file
        self.problem = problem


class IndexVersionError(IndexCorruptError):
    """The index was written by a newer release; `version` is its format version."""

    def __init__(self, file: str, version: int, known: int) -> None:
        """Keep the version that was met."""
        super().__init__(
            file,
            f"it has format version {version} and this release reads up to {known}; "
            "install a newer imgsearch-faiss",
        )
        self.version = version


class ModelMismatchError(ImgsearchError):
    """The model or its weights are not those that made the index."""

    exit_code = 5


class UnknownModelError(ModelMismatchError):
    """The index was imported from vectors, and nobody said which model made them."""

    def __init__(self) -> None:
        """Say what can still be asked."""
        super().__init__(
            "the index was made from vectors of an unknown model: ask it by row or by vector"
        )


class MissingError(ImgsearchError):
    """Something must be installed or fetched first."""

    exit_code = 6


class MissingPackageError(MissingError):
    """A Python package is not installed; `package` and the `extra` that brings it."""

    def __init__(self, package: str, extra: str | None, purpose: str, instead: str = "") -> None:
        """Name the package, what it is for, the command that installs it, and another way on."""
        wanted = f"imgsearch-faiss[{extra}]" if extra else package
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed: pip install '{wanted}'"
            f"{instead and ', or '}{instead}"
        )
        self.package = package
        self.extra = extra


class MissingWeightsError(MissingError):
    """The weights of a model are not here and could not be fetched."""


class WriteError(ImgsearchError):
    """The result cannot be written: disk full, no permission."""

    exit_code = 7


class IndexLockedError(WriteError):
    """Another process is writing this index; `index` is its folder."""

    def __init__(self, index: str) -> None:
        """Keep the folder."""
        super().__init__(f"another process is writing {index}; try again when it has finished")
        self.index = index


class OverloadedError(ImgsearchError):
    """More is asked of a service than it can answer; `retry_after` seconds are advised."""

    def __init__(self, why: str, retry_after: int = 1) -> None:
        """Keep the advice."""
        super().__init__(f"{why}: ask again in {retry_after} s")
        self.retry_after = retry_after


class NotReadyError(ImgsearchError):
    """A service has not begun, or is about to end."""
