"""Particles: picking, extraction, curation."""

from ._field import Field, MatchedFilter, phase_randomised, prepare_field
from ._inputs import resample
from ._same_images import same_images
from ._training_fields import TrainingField
from .accuracy import Precision, precision_of
from .blob import BlobScore, blob_pixel_in_angstroms, score_blobs
from .calibration import Calibration, fit_calibration, threshold_above_null
from .curation import (
    MicrographSelection,
    find_duplicate_particles,
    find_duplicates,
    junk_features,
    junk_probability,
    junk_score,
    leaked_halves,
    positions_in_angstroms,
    select_micrographs,
)
from .extraction import Extraction, extract_particles, local_defocus, masked_fraction, normalise_particles
from .network import LearnedPicker, ScoreMap, Transfer, load_picker, save_picker
from .picks import (
    REFUSED_LABELS,
    Picks,
    at_least,
    outside_artefacts,
    pick_from_score_map,
    suppress_neighbours,
    surviving_null,
    threshold_for_false_discoveries,
    within_field,
    without_small_contamination,
)
from .template import Templates, TemplateScore, score_templates, templates_from_images, templates_from_map
from .training import ClickedMicrograph, TrainingConfig, adapt, train_on_fields, train_picker
from .transfer import particle_transfer, transfer_at

__all__ = [
    "REFUSED_LABELS",
    "BlobScore",
    "Calibration",
    "ClickedMicrograph",
    "Extraction",
    "Field",
    "LearnedPicker",
    "MatchedFilter",
    "MicrographSelection",
    "Picks",
    "Precision",
    "ScoreMap",
    "TemplateScore",
    "Templates",
    "TrainingConfig",
    "TrainingField",
    "Transfer",
    "adapt",
    "at_least",
    "blob_pixel_in_angstroms",
    "extract_particles",
    "find_duplicate_particles",
    "find_duplicates",
    "fit_calibration",
    "junk_features",
    "junk_probability",
    "junk_score",
    "leaked_halves",
    "load_picker",
    "local_defocus",
    "masked_fraction",
    "normalise_particles",
    "outside_artefacts",
    "particle_transfer",
    "phase_randomised",
    "pick_from_score_map",
    "positions_in_angstroms",
    "precision_of",
    "prepare_field",
    "resample",
    "same_images",
    "save_picker",
    "score_blobs",
    "score_templates",
    "select_micrographs",
    "suppress_neighbours",
    "surviving_null",
    "templates_from_images",
    "templates_from_map",
    "threshold_above_null",
    "threshold_for_false_discoveries",
    "train_on_fields",
    "train_picker",
    "transfer_at",
    "within_field",
    "without_small_contamination",
]
