"""What dumps name works by: DOIs, PubMed ids and dates, as texts hold them."""

from __future__ import annotations

import datetime
import math
import re
from typing import Final
from urllib.parse import unquote

__all__ = ["clean_doi", "openalex_number", "positive", "year_of"]

#: The suffix of a DOI is any printable text (DOI Handbook 2.2.2); blanks and quotes end it in running text.
_DOI: Final = re.compile(r"10\.\d{4,9}(?:\.\d+)*/[^\s\"\u201c\u201d]+", re.IGNORECASE)
#: Where another DOI, an address or a closing tag of HTML begins right after it.
_DOI_END: Final = re.compile(r"</|<(?=[a-z]+[\s/>]*$)|&[lg]t;/|[,;|](?=(?:doi:|https?:)|10\.\d{4,9}/)", re.IGNORECASE)
_BRACKETS: Final = {")": "(", "]": "[", "}": "{", ">": "<"}


def clean_doi(text: object) -> str | None:
    """Return the DOI in a text, in lower case; None if there is none.

    Brackets and ``<``, ``>``, ``;`` belong to it where they are balanced, as in old SICI suffixes; punctuation at its
    end and brackets opened before it do not. In an address %-escapes are undone, and a query or fragment is cut.
    """
    if not isinstance(text, str):
        return None
    if text.lstrip().lower().startswith(("http://", "https://")):
        text = unquote(re.split(r"[?#]", text, maxsplit=1)[0])
    found = _DOI.search(text)
    if found is None:
        return None
    doi = _DOI_END.split(found.group(), maxsplit=1)[0]
    while doi:
        last = doi[-1]
        if last in ".,;:!?'*\u2019" or (last in _BRACKETS and doi.count(last) > doi.count(_BRACKETS[last])):
            doi = doi[:-1]
        else:
            break
    return None if doi.endswith("/") else doi.lower()


def year_of(text: str) -> float:
    """Return a date, YYYY or YYYY-MM-DD, in years; a bare year counts from its middle.

    Raises
    ------
    ValueError
        It is no date.
    """
    if re.fullmatch(r"\d{4}", text):
        year = int(text) + 0.5
    else:
        day = datetime.date.fromisoformat(text[:10])
        start = datetime.date(day.year, 1, 1).toordinal()
        length = datetime.date(day.year, 12, 31).toordinal() - start + 1
        year = day.year + (day.toordinal() - start) / length
    if not 1500 <= year <= 2200:
        raise ValueError(f"{text} is no date")
    # One work of a later year would be taken for the end of the graph.
    if math.floor(year) > datetime.datetime.now(datetime.UTC).year:
        raise ValueError(f"{text} is in the future")
    return year


def positive(text: object) -> int | None:
    """Return the positive whole number that a text is; None if it is none."""
    known = isinstance(text, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", text) is not None
    return int(text) if known and int(text) > 0 else None  # type: ignore[call-overload]


def openalex_number(text: object) -> int:
    """Return the number of a work of OpenAlex: ``W`` and digits, alone or in an address.

    Raises
    ------
    ValueError
        It is none.
    """
    found = (
        re.fullmatch(r"(?:https?://(?:api\.)?openalex\.org/(?:works/)?)?[Ww](\d+)", text)
        if isinstance(text, str)
        else None
    )
    if found is None or not 0 < int(found.group(1)) < 2**62:
        raise ValueError(f"{text!r} is no work of OpenAlex")
    return int(found.group(1))
