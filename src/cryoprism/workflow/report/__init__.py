"""The report: one self-contained page that shows a session and its micrographs at a glance."""

from ._page import write_report

__all__ = ["write_report"]
