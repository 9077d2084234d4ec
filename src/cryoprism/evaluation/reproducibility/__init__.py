"""Could someone repeat it: the chain of job records, what is missing, what it costs, and a re-run that is compared."""

from .comparison import SAME, FileComparison, compare_outputs, equal_outputs
from .completeness import DETAILS, Item, check_completeness, completeness
from .cost import Cost, CostModel, Observation, Range, Size, fit_cost_model, shipped_cost_model, size_of
from .judgement import Reproducibility, judge_reproducibility
from .record import Input, Record, chain_of, read_record
from .rerun import Repeat, delta_repro, repeat_job

__all__ = [
    "DETAILS",
    "SAME",
    "Cost",
    "CostModel",
    "FileComparison",
    "Input",
    "Item",
    "Observation",
    "Range",
    "Record",
    "Repeat",
    "Reproducibility",
    "Size",
    "chain_of",
    "check_completeness",
    "compare_outputs",
    "completeness",
    "delta_repro",
    "equal_outputs",
    "fit_cost_model",
    "judge_reproducibility",
    "read_record",
    "repeat_job",
    "shipped_cost_model",
    "size_of",
]
