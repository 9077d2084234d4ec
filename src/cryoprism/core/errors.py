"""Typed errors: each names where it went wrong, the value that was found and the remedy."""

from __future__ import annotations

from typing import Final

__all__ = [
    "HOW_TO_INSTALL_ASSESS",
    "ConvergenceError",
    "CryoPrismError",
    "CryoPrismWarning",
    "InputError",
    "OutputError",
]

#: Remedy where a library of the extra ``assess`` is absent; the package is not on PyPI.
HOW_TO_INSTALL_ASSESS: Final = (
    "Install it: in CryoPrism's own folder 'make assess', or in an environment of yours "
    "pip install -c constraints.txt -e '.[assess]'."
)


class CryoPrismError(Exception):
    """Base of every error that CryoPrism raises on purpose; the command line turns it into exit code 2.

    Parameters
    ----------
    where
        The file, column or option that is wrong.
    found
        The value that was found there.
    remedy
        What the user can do about it, as an imperative sentence.
    """

    def __init__(self, where: object, found: str, remedy: str) -> None:
        self.where = str(where)
        self.found = found
        self.remedy = remedy
        super().__init__(f"{self.where}: {found}. {remedy}")

    def __reduce__(self) -> tuple[type[CryoPrismError], tuple[str, str, str]]:
        # Errors cross process borders when several workers run.
        return (type(self), (self.where, self.found, self.remedy))


class InputError(CryoPrismError):
    """Something that the user gave (a file, a field, an option) cannot be used."""


class OutputError(InputError):
    """A result cannot be written: nothing that comes after could be, either."""


class ConvergenceError(CryoPrismError):
    """An iterative estimate did not settle."""


class CryoPrismWarning(UserWarning):
    """Input that is unusual but could be read; the text names field, value and remedy."""
