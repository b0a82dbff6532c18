"""gettext's PO: messages and their translations, as parallel text. What is not translated, or fuzzy, is no row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from luthier.data.files.base import How
from luthier.data.files.opened import Opened
from luthier.errors import DataError
from luthier.supplies import library

SOURCE_LANGUAGE = "en"
"""Messages are written in English unless a header says otherwise."""


class Po:
    """Rows with `source`, `target` and their languages."""

    suffixes = (".po",)

    def rows(self, file: Opened, how: How) -> Iterator[tuple[int, Any]]:
        """Each translated message with its line."""
        polib = library("polib", "a .po file", "data")
        text = how.whole(file)
        try:
            entries = polib.pofile(text, check_for_duplicates=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: not valid PO: {error}") from None
        languages = {
            "source_lang": entries.metadata.get("X-Source-Language") or SOURCE_LANGUAGE,
            "target_lang": entries.metadata.get("Language") or file.path.stem,
        }
        skipped = 0
        for entry in entries:
            if entry.obsolete or not entry.translated():
                skipped += 1
                continue
            source, target = entry.msgid, entry.msgstr
            if entry.msgid_plural:
                source, target = entry.msgid_plural, entry.msgstr_plural[max(entry.msgstr_plural)]
            yield entry.linenum, {"source": source, "target": target} | languages
        how.note = f"{skipped} messages without a translation" if skipped else ""
