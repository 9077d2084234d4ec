"""Jobs: validated configuration, folders that record everything, resume, progress, memory, several workers."""

from ._config import JobConfig, RestoreConfig, SimulateConfig
from ._explanation import Explanation, explanation_of, plot_ledger
from ._files import atomic_path, fingerprint, output_stems, write_json, write_text
from ._jobs import FAILURE_MARKER, SUCCESS_MARKER, Job, open_job
from ._memory import MemoryPlan, available_memory_in_bytes, estimate_memory_in_bytes, plan_memory
from ._narrative import (
    advice_for,
    cause_in_words,
    micrograph_sentences,
    read_causes,
    session_sentences,
)
from ._parallel import Failure, close_workers, map_items
from ._progress import ConsoleHandler, console, progress
from ._summary import RestoreSummary
from .demo import Demonstration, compare_with_truth, run_demo
from .session import Session, analyse_session, restore_session

__all__ = [
    "FAILURE_MARKER",
    "SUCCESS_MARKER",
    "ConsoleHandler",
    "Demonstration",
    "Explanation",
    "Failure",
    "Job",
    "JobConfig",
    "MemoryPlan",
    "RestoreConfig",
    "RestoreSummary",
    "Session",
    "SimulateConfig",
    "advice_for",
    "analyse_session",
    "atomic_path",
    "available_memory_in_bytes",
    "cause_in_words",
    "close_workers",
    "compare_with_truth",
    "console",
    "estimate_memory_in_bytes",
    "explanation_of",
    "fingerprint",
    "map_items",
    "micrograph_sentences",
    "open_job",
    "output_stems",
    "plan_memory",
    "plot_ledger",
    "progress",
    "read_causes",
    "restore_session",
    "run_demo",
    "session_sentences",
    "write_json",
    "write_text",
]
