"""The report: one self-contained page that shows a session and its micrographs at a glance."""

from ._assess_page import assess_report
from ._consistency_page import consistency_pictures, consistency_report
from ._impact_page import impact_report
from ._map_page import map_report, map_sections
from ._novelty_page import novelty_pictures, novelty_report
from ._page import write_report
from ._sandbox_page import sandbox_report
from ._score_page import quality_report, weights_report
from ._session import write_graph

__all__ = [
    "assess_report",
    "consistency_pictures",
    "consistency_report",
    "impact_report",
    "map_report",
    "map_sections",
    "novelty_pictures",
    "novelty_report",
    "quality_report",
    "sandbox_report",
    "weights_report",
    "write_graph",
    "write_report",
]
