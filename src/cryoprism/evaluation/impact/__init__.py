"""Will it matter: a citation graph from public dumps, forecasts of citations and patents, and their intervals."""

from .attachment import PreferentialAttachment, WangSongBarabasi, expected_citations
from .conformal import Conformal, Prediction
from .features import FEATURES, HORIZON_IN_YEARS, OLDEST_IN_YEARS, Snapshot, later_citations, snapshot
from .forecast import HOW_TO_GET_DATA, Impact, forecast_impact, write_forecasts
from .graph import CitationGraph, GraphWriter, load_graph
from .importers import (
    ImportCount,
    clean_doi,
    import_entries,
    import_merged_works,
    import_openalex,
    import_patent_citations,
    import_patent_references,
    import_patents,
)
from .learned import GradientBoosting, GraphSage
from .simulator import simulate_citations
from .training import MODELS, Trained, fit_model, forecast_works, train
from .validation import Compared, Coverage, compare, held_out_coverage

__all__ = [
    "FEATURES",
    "HORIZON_IN_YEARS",
    "HOW_TO_GET_DATA",
    "MODELS",
    "OLDEST_IN_YEARS",
    "CitationGraph",
    "Compared",
    "Conformal",
    "Coverage",
    "GradientBoosting",
    "GraphSage",
    "GraphWriter",
    "Impact",
    "ImportCount",
    "Prediction",
    "PreferentialAttachment",
    "Snapshot",
    "Trained",
    "WangSongBarabasi",
    "clean_doi",
    "compare",
    "expected_citations",
    "fit_model",
    "forecast_impact",
    "forecast_works",
    "held_out_coverage",
    "import_entries",
    "import_merged_works",
    "import_openalex",
    "import_patent_citations",
    "import_patent_references",
    "import_patents",
    "later_citations",
    "load_graph",
    "simulate_citations",
    "snapshot",
    "train",
    "write_forecasts",
]
