"""Jobs: validated configuration, folders that record everything, resume, progress, memory, several workers."""

from .jobs.config import JobConfig, RestoreConfig, SimulateConfig
from .jobs.files import atomic_path, fingerprint, output_stems, write_json, write_text
from .jobs.job import FAILURE_MARKER, SUCCESS_MARKER, Job, open_job
from .jobs.memory import MemoryPlan, available_memory_in_bytes, estimate_memory_in_bytes, plan_memory
from .jobs.parallel import Failure, close_workers, map_items
from .jobs.progress import ConsoleHandler, console, progress
from .jobs.summary import RestoreSummary
from .judgement.assess_config import AssessConfig
from .judgement.assess_session import AssessSummary, assess_session
from .judgement.impact_configs import ImpactBuildConfig, ImpactTrainConfig
from .judgement.impact_session import ImpactSummary, build_impact_graph, train_impact
from .judgement.novelty_configs import NoveltyAddConfig, NoveltyBuildConfig, NoveltyQueryConfig
from .judgement.novelty_session import (
    NoveltyIndexSummary,
    NoveltyQuerySummary,
    add_to_index,
    build_index,
    query_novelty,
)
from .judgement.prove_config import ProveConfig
from .judgement.prove_session import ProveResult, prove_model
from .judgement.prover_walls import walled_prover
from .judgement.sandbox_session import SandboxConfig, SandboxSummary, run_in_sandbox
from .judgement.score_configs import WeightsExplainConfig, WeightsLearnConfig
from .judgement.weights_session import Question, WeightsSummary, explain_weights, learn_weights, next_question
from .maps.configs import InitialModelConfig, ProcessConfig, RefineConfig
from .maps.ctf_refine_session import CtfRefineSummary, ctf_refine_session
from .maps.initial_model_session import InitialModelSummary, initial_model_session
from .maps.process_results import ProcessSummary
from .maps.process_session import process_session
from .maps.reconstruct_session import ReconstructSummary, reconstruct_session
from .maps.refine_session import RefineSummary, refine_session
from .maps.resolution import ModelFit, ResolutionSummary, summarise_resolution
from .maps.resolution_session import ResolutionResult, measure_resolution
from .micrographs.demo import Demonstration, compare_with_truth, run_demo
from .micrographs.explanation import Explanation, explanation_of, plot_ledger
from .micrographs.narrative import (
    advice_for,
    cause_in_words,
    micrograph_sentences,
    read_causes,
    session_sentences,
)
from .micrographs.restore_session import Session, analyse_session, restore_session
from .particles.classify_session import ClassifySummary, classify_session
from .particles.configs import (
    ClassifyConfig,
    CtfRefineConfig,
    ExtractConfig,
    PickConfig,
    ReconstructConfig,
    ResolutionConfig,
)
from .particles.extract_session import ExtractSummary, extract_session
from .particles.pick_session import PickSummary, pick_session
from .particles.train_picker_session import TrainPickerConfig, TrainPickerSummary, run_train_picker
from .synthesis.configs import SynthesizeConfig
from .synthesis.synthesize_session import SynthesizeSummary, synthesize_session

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
