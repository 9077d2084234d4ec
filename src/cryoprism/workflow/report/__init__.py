"""The report: one self-contained page that shows a session and its micrographs at a glance."""

from ._page import write_report
from ._session import write_graph

__all__ = ["write_graph", "write_report"]
