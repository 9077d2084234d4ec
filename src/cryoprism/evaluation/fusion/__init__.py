"""All in one: V and HyperScore with their uncertainty, weights from people's judgements, what to ask next."""

from .asking import expected_information_in_bits, most_informative, thompson
from .judgements import (
    Assessed,
    Judgement,
    Outcome,
    count_distinct,
    differences,
    outcomes,
    read_assessment,
    read_judgements,
    without_copies,
)
from .learning import Posterior, agreement_by_judge, learn, learn_from, log_posterior, mended, outcome_probabilities
from .policy import policy_gradient
from .quality_table import QualityTable, read_quality_table
from .regression import Coefficient, QualityRegression, regress_quality
from .score import Estimate, Fusion, component_values, fuse, hyperscore
from .shaping import LearnedShape, learn_shape, score_log_likelihoods
from .weights import (
    COMPONENTS,
    ENOUGH_JUDGEMENTS,
    SYMBOLS,
    Shape,
    Weights,
    default_shape,
    default_weights,
    impact_bound_in_citations,
    read_weights,
    softmax,
    weights_path,
)

__all__ = [
    "COMPONENTS",
    "ENOUGH_JUDGEMENTS",
    "SYMBOLS",
    "Assessed",
    "Coefficient",
    "Estimate",
    "Fusion",
    "Judgement",
    "LearnedShape",
    "Outcome",
    "Posterior",
    "QualityRegression",
    "QualityTable",
    "Shape",
    "Weights",
    "agreement_by_judge",
    "component_values",
    "count_distinct",
    "default_shape",
    "default_weights",
    "differences",
    "expected_information_in_bits",
    "fuse",
    "hyperscore",
    "impact_bound_in_citations",
    "learn",
    "learn_from",
    "learn_shape",
    "log_posterior",
    "mended",
    "most_informative",
    "outcome_probabilities",
    "outcomes",
    "policy_gradient",
    "read_assessment",
    "read_judgements",
    "read_quality_table",
    "read_weights",
    "regress_quality",
    "score_log_likelihoods",
    "softmax",
    "thompson",
    "weights_path",
    "without_copies",
]
