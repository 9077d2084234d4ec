"""Has anything of this shape been seen: descriptors of maps and models, an index of known shapes, a probability."""

from .calibration import (
    AROUND,
    COEFFICIENTS,
    Calibration,
    Crowd,
    StatePairs,
    fit_calibration,
    known_probability,
    shipped_calibration,
)
from .copies import CopyRecipe, copies_of, copy_of
from .descriptor import (
    DESCRIPTOR,
    DIMENSION,
    Descriptor,
    NoShapeError,
    describe_file,
    kind_of_file,
    shape_pictures,
    shape_vector,
)
from .entries import Entry
from .index import Match, ShapeIndex, require_faiss
from .index_writer import FLAT_LIMIT, SAMPLE, IndexWriter, lists_for
from .judgement import Neighbour, Novelty, judge, novelty_of
from .preparation import Shape, shape_of_atoms, shape_of_map
from .states import state_histogram, state_sequences, state_similarity, states_available
from .storage import INDEX_REMEDY, require_index
from .writing import Written, write_shapes
from .zernike import ball_grid, grid_invariants, invariant_labels, radial_polynomial, zernike_invariants

__all__ = [
    "AROUND",
    "COEFFICIENTS",
    "DESCRIPTOR",
    "DIMENSION",
    "FLAT_LIMIT",
    "INDEX_REMEDY",
    "SAMPLE",
    "Calibration",
    "CopyRecipe",
    "Crowd",
    "Descriptor",
    "Entry",
    "IndexWriter",
    "Match",
    "Neighbour",
    "NoShapeError",
    "Novelty",
    "Shape",
    "ShapeIndex",
    "StatePairs",
    "Written",
    "ball_grid",
    "copies_of",
    "copy_of",
    "describe_file",
    "fit_calibration",
    "grid_invariants",
    "invariant_labels",
    "judge",
    "kind_of_file",
    "known_probability",
    "lists_for",
    "novelty_of",
    "radial_polynomial",
    "require_faiss",
    "require_index",
    "shape_of_atoms",
    "shape_of_map",
    "shape_pictures",
    "shape_vector",
    "shipped_calibration",
    "state_histogram",
    "state_sequences",
    "state_similarity",
    "states_available",
    "write_shapes",
    "zernike_invariants",
]
