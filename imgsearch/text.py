"""Text that is safe to show: names come from strangers' disks."""

from __future__ import annotations

import os
import unicodedata

# Cc: control, Cf: invisible format characters (bidi overrides among them), Cs: surrogates,
# Zl/Zp: line and paragraph separators. Each could move the cursor or rewrite what is shown.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Joiners are part of ordinary words in Persian and Indic scripts and of emoji.
_WANTED = {"\u200c", "\u200d"}
# os.fsdecode turns a byte b that is no UTF-8 into the character _BYTE + b.
_BYTE, _BYTES = 0xDC00, range(0xDC80, 0xDD00)
_SURROGATES = range(0xD800, 0xE000)


def printable(text: str) -> str:
    r"""Escape what could do harm in a terminal, a table or a picture.

    A byte that is no UTF-8 (a lone surrogate, as os.fsdecode leaves it) becomes \xNN, a newline
    \n, other control characters \xNN or \uNNNN. Everything else, of any script, stays.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(character) for character in text)


def is_utf8(text: str) -> bool:
    """Whether a name can be written as UTF-8: one that came from other bytes cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _escape(character: str) -> str:
    code = ord(character)
    if code in _BYTES:
        return f"\\x{code - _BYTE:02x}"
    if character in _WANTED or unicodedata.category(character) not in _HIDDEN:
        return character
    if code in _SURROGATES:
        return f"\\u{code:04x}"
    return character.encode("unicode_escape").decode("ascii")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """'1 picture', '12 pictures', '1,234 pictures'."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def is_remote(name: str) -> bool:
    """Whether a name is that of object storage, not of a file or folder."""
    return name.startswith(("s3://", "gs://"))


def place_in(root: str, path: str) -> str:
    """Name the picture at a path below a root: its file, or its URL."""
    return f"{root.rstrip('/')}/{path}" if is_remote(root) else os.path.join(root, path)  # noqa: PTH118 - of many rows
