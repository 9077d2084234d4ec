"""Jobs: validated configuration, folders that record everything, resume, progress, memory, several workers."""

from ._assess_config import AssessConfig
from ._config import JobConfig, RestoreConfig, SimulateConfig
from ._explanation import Explanation, explanation_of, plot_ledger
from ._files import atomic_path, fingerprint, output_stems, write_json, write_text
from ._impact_configs import ImpactBuildConfig, ImpactTrainConfig
from ._jobs import FAILURE_MARKER, SUCCESS_MARKER, Job, open_job
from ._map_configs import InitialModelConfig, ProcessConfig, RefineConfig
from ._memory import MemoryPlan, available_memory_in_bytes, estimate_memory_in_bytes, plan_memory
from ._narrative import (
    advice_for,
    cause_in_words,
    micrograph_sentences,
    read_causes,
    session_sentences,
)
from ._novelty_configs import NoveltyAddConfig, NoveltyBuildConfig, NoveltyQueryConfig
from ._parallel import Failure, close_workers, map_items
from ._particle_configs import (
    ClassifyConfig,
    CtfRefineConfig,
    ExtractConfig,
    PickConfig,
    ReconstructConfig,
    ResolutionConfig,
)
from ._process_results import ProcessSummary
from ._progress import ConsoleHandler, console, progress
from ._prove_config import ProveConfig
from ._prover_walls import walled_prover
from ._resolution import ModelFit, ResolutionSummary, summarise_resolution
from ._score_configs import WeightsExplainConfig, WeightsLearnConfig
from ._summary import RestoreSummary
from ._synthesis_configs import SynthesizeConfig
from .assess_session import AssessSummary, assess_session
from .classify_session import ClassifySummary, classify_session
from .ctf_refine_session import CtfRefineSummary, ctf_refine_session
from .demo import Demonstration, compare_with_truth, run_demo
from .extract_session import ExtractSummary, extract_session
from .impact_session import ImpactSummary, build_impact_graph, train_impact
from .initial_model_session import InitialModelSummary, initial_model_session
from .novelty_session import NoveltyIndexSummary, NoveltyQuerySummary, add_to_index, build_index, query_novelty
from .pick_session import PickSummary, pick_session
from .process_session import process_session
from .prove_session import ProveResult, prove_model
from .reconstruct_session import ReconstructSummary, reconstruct_session
from .refine_session import RefineSummary, refine_session
from .resolution_session import ResolutionResult, measure_resolution
from .sandbox_session import SandboxConfig, SandboxSummary, run_in_sandbox
from .session import Session, analyse_session, restore_session
from .synthesize_session import SynthesizeSummary, synthesize_session
from .train_picker import TrainPickerConfig, TrainPickerSummary, run_train_picker
from .weights_session import Question, WeightsSummary, explain_weights, learn_weights, next_question

__all__ = [
    "FAILURE_MARKER",
    "SUCCESS_MARKER",
    "AssessConfig",
    "AssessSummary",
    "ClassifyConfig",
    "ClassifySummary",
    "ConsoleHandler",
    "CtfRefineConfig",
    "CtfRefineSummary",
    "Demonstration",
    "Explanation",
    "ExtractConfig",
    "ExtractSummary",
    "Failure",
    "ImpactBuildConfig",
    "ImpactSummary",
    "ImpactTrainConfig",
    "InitialModelConfig",
    "InitialModelSummary",
    "Job",
    "JobConfig",
    "MemoryPlan",
    "ModelFit",
    "NoveltyAddConfig",
    "NoveltyBuildConfig",
    "NoveltyIndexSummary",
    "NoveltyQueryConfig",
    "NoveltyQuerySummary",
    "PickConfig",
    "PickSummary",
    "ProcessConfig",
    "ProcessSummary",
    "ProveConfig",
    "ProveResult",
    "Question",
    "ReconstructConfig",
    "ReconstructSummary",
    "RefineConfig",
    "RefineSummary",
    "ResolutionConfig",
    "ResolutionResult",
    "ResolutionSummary",
    "RestoreConfig",
    "RestoreSummary",
    "SandboxConfig",
    "SandboxSummary",
    "Session",
    "SimulateConfig",
    "SynthesizeConfig",
    "SynthesizeSummary",
    "TrainPickerConfig",
    "TrainPickerSummary",
    "WeightsExplainConfig",
    "WeightsLearnConfig",
    "WeightsSummary",
    "add_to_index",
    "advice_for",
    "analyse_session",
    "assess_session",
    "atomic_path",
    "available_memory_in_bytes",
    "build_impact_graph",
    "build_index",
    "cause_in_words",
    "classify_session",
    "close_workers",
    "compare_with_truth",
    "console",
    "ctf_refine_session",
    "estimate_memory_in_bytes",
    "explain_weights",
    "explanation_of",
    "extract_session",
    "fingerprint",
    "initial_model_session",
    "learn_weights",
    "map_items",
    "measure_resolution",
    "micrograph_sentences",
    "next_question",
    "open_job",
    "output_stems",
    "pick_session",
    "plan_memory",
    "plot_ledger",
    "process_session",
    "progress",
    "prove_model",
    "query_novelty",
    "read_causes",
    "reconstruct_session",
    "refine_session",
    "restore_session",
    "run_demo",
    "run_in_sandbox",
    "run_train_picker",
    "session_sentences",
    "summarise_resolution",
    "synthesize_session",
    "train_impact",
    "walled_prover",
    "write_json",
    "write_text",
]
