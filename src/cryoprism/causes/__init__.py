"""The causal graph, its spectral likelihood, inference, interventions, the loss ledger and the self-evaluation loop."""

from .abstention import abstentions
from .estimate import CtfEstimate, Estimate, SearchRange, estimate_causes, refit, with_known
from .evidence import Circumstances, RingFit, TiltPlane
from .fitted import FittedSpectrum, fitted_spectrum
from .graph import CAUSES, FAMILIES, STAGES, CausalGraph, Cause, default_graph
from .inference import Fit, Prior, default_prior
from .ledger import Ledger, LedgerEntry, Observation, information_under, make_ledger
from .loop import FITTED, Gates, LoopPass, LoopTrace, judge, learn_prior, run_loop
from .search import DefocusCandidate, search_defocus
from .spectrum import PolarGrid, Spectrum, measure_spectrum

__all__ = [
    "CAUSES",
    "FAMILIES",
    "FITTED",
    "STAGES",
    "CausalGraph",
    "Cause",
    "Circumstances",
    "CtfEstimate",
    "DefocusCandidate",
    "Estimate",
    "Fit",
    "FittedSpectrum",
    "Gates",
    "Ledger",
    "LedgerEntry",
    "LoopPass",
    "LoopTrace",
    "Observation",
    "PolarGrid",
    "Prior",
    "RingFit",
    "SearchRange",
    "Spectrum",
    "TiltPlane",
    "abstentions",
    "default_graph",
    "default_prior",
    "estimate_causes",
    "fitted_spectrum",
    "information_under",
    "judge",
    "learn_prior",
    "make_ledger",
    "measure_spectrum",
    "refit",
    "run_loop",
    "search_defocus",
    "with_known",
]
