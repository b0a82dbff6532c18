"""A file as bytes or characters, one piece after another: unpacked, its encoding found, links and bombs refused.

Nothing is held that has not been asked for yet, so that a file of any size can be read.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from luthier.data.files.encoding import Undecided, byte_order_mark, guess
from luthier.errors import DataError
from luthier.supplies import library

CHUNK = 1 << 20
"""Bytes read at a time."""
LARGEST_ROW = 32 << 20
"""Characters of the longest row. That is millions of tokens; a longer one is a file that is cut at wrong places."""
TOO_LONG = f"a row of more than {LARGEST_ROW >> 20} million characters; is the file cut into rows as it should be?"
MOST_INFLATED = 1000
"""How many times its packed size a file may unpack to. Rows unpack to a tenth of that; bombs to more."""
SMALL = 256 << 20
"""Bytes that any file may unpack to."""
PACKED = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\x28\xb5\x2f\xfd": ".zst"}
"""First bytes of packed files."""
Faults = tuple[type[Exception], ...]
"""What reading a damaged file raises."""


class RowTooLong(DataError):
    """A row of more characters than any may have."""


class Opened:
    """One file: `path`, its kind of content `suffix` (what is inside a packed one), and its bytes.

    `faults` are what reading a damaged one raises besides OSError; `most_bytes` is what it may unpack to.
    """

    def __init__(self, path: Path, stream: IO[bytes], suffix: str, *, packed: bool, faults: Faults = ()) -> None:
        self.path, self.stream, self.suffix, self.packed = path, stream, suffix, packed
        self.faults: Faults = (OSError, *faults)
        self.taken = 0
        self.most_bytes = max(SMALL, MOST_INFLATED * path.stat().st_size)

    def __str__(self) -> str:
        return str(self.path)

    def read(self, size: int = CHUNK) -> bytes:
        """The next bytes, none at the end.

        Raises:
            DataError: the file is cut off, damaged, or unpacks to far more than it should.
        """
        try:
            piece = self.stream.read(size)
        except self.faults as error:
            raise DataError(f"{self}: cannot be unpacked after {self.taken} bytes: {error}; is it cut off?") from None
        self.taken += len(piece)
        if self.packed:
            self.require_no_bomb(self.taken)
        return piece

    def require_no_bomb(self, unpacked_bytes: int) -> None:
        """Refuse a file that unpacks to so much; raises DataError."""
        if unpacked_bytes > self.most_bytes:
            raise DataError(f"{self}: unpacks to more than {MOST_INFLATED} times its size; that is no file of rows")


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Open a file of rows, unpacked where it is packed.

    Raises:
        DataError: it is none, or cannot be opened.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path}: a folder; give one of its files")
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: not a regular file (a device or a pipe); give a file")
        with path.open("rb") as raw:
            kind = next((kind for magic, kind in PACKED.items() if raw.peek(4)[: len(magic)] == magic), None)
            inner = path.with_suffix("") if path.suffix.lower() in PACKED.values() else path
            stream, faults = _unpacked(raw, kind)
            with stream:
                yield Opened(path, stream, inner.suffix.lower(), packed=kind is not None, faults=faults)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (looked at {path.absolute()})") from None
    except (OSError, ValueError) as error:  # ValueError: a path that holds a NUL character
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _unpacked(raw: IO[bytes], kind: str | None) -> tuple[Any, Faults]:
    if kind == ".gz":
        return gzip.GzipFile(fileobj=raw), (EOFError, zlib.error)
    if kind == ".bz2":
        return bz2.BZ2File(raw), (EOFError, ValueError)
    if kind == ".zst":
        zstd = library("backports.zstd", "a .zst file", "data")
        return zstd.ZstdFile(raw), (EOFError, zstd.ZstdError)
    return raw, ()


class Characters:
    """The text of a file, one piece after another. `encoding` is what was found, or is taken for so far."""

    def __init__(self, file: Opened, encoding: str) -> None:
        self.file, self.named = file, encoding != "auto"
        self.encoding, self.mark, self.lines = encoding if self.named else "utf-8", "", 1
        self.plain = True  # nothing but ASCII so far, so that nothing can have been misread
        self.decoder: codecs.IncrementalDecoder | None = None

    def read(self) -> str:
        """The next characters, none at the end.

        Raises:
            DataError: what is there is no text, or in no encoding that can be told.
        """
        text = ""
        while not text:
            piece = self.file.read()
            if self.decoder is None:
                piece = self._begin(piece)
            text = self._decode(piece)
            if not piece:
                break
        if "\0" in text:
            line = self.lines + text.count("\n", 0, text.index("\0"))
            raise DataError(f"{self.file}:{line}: not a text file (it holds NUL bytes)")
        self.plain = self.plain and text.isascii()
        self.lines += text.count("\n")
        return text

    def __str__(self) -> str:
        return self.encoding

    def _begin(self, piece: bytes) -> bytes:
        encoding, mark = byte_order_mark(piece)
        if encoding is not None and not self.named:
            self.encoding = encoding
        self._use(self.encoding)
        self.named = self.named or bool(mark)  # a mark leaves nothing to guess
        own = mark and codecs.lookup(encoding or "").name == codecs.lookup(self.encoding).name
        return piece[len(mark) :] if own else piece

    def _use(self, encoding: str) -> None:
        try:
            b"a".decode(encoding, "ignore")  # which refuses codecs that are no encodings of text, as rot13
            self.decoder = codecs.getincrementaldecoder(encoding)()
        except LookupError:
            raise DataError(f"{self.file}: encoding {encoding!r} is not known; utf-8, gb18030 and cp1252 are") from None
        self.encoding = encoding

    def _decode(self, piece: bytes) -> str:
        assert self.decoder is not None
        try:
            return self.decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:  # of the piece, behind what the one before it left
            raw, start, cut = error.object, error.start, error.reason == "unexpected end of data"
        if cut or self.named or self.encoding != "utf-8" or not self.plain:
            raise self._undecodable(raw, start)
        try:
            self._use(guess(raw))
        except Undecided as undecided:
            raise self._undecodable(raw, start, str(undecided)) from None
        return self.decoder.decode(raw, final=not piece)

    def _undecodable(self, raw: bytes, start: int, hint: str = "") -> DataError:
        line = self.lines + raw.count(b"\n", 0, start)
        name = "UTF-8" if self.encoding == "utf-8" else self.encoding
        offset = self.file.taken - len(raw) + start
        hint = hint or "convert it to UTF-8, or name its encoding: {path: ..., encoding: gb18030}"
        found = f"byte 0x{raw[start]:02x} at offset {offset}" if start < len(raw) else "cut off"
        return DataError(f"{self.file}:{line}: not {name} ({found}); {hint}")
