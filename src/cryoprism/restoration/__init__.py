"""Restoration: defects, background, artefact masks, the view for eyes and pickers, weights for reconstruction."""

from ._model import BandLimitedModel, FittedModel, RefocusableModel, SpectralTable, tabulate
from .background import Background, fit_background
from .crystalline import ICE_SPACINGS_IN_ANGSTROMS, IceSuppression, suppress_crystalline_ice
from .defects import Defects, find_defects, replace_defects
from .gain import GainResidue, GainResidueAccumulator
from .masks import LABELS, ArtefactMask, artefact_mask
from .tiles import restore_view_in_tiles
from .view import View, restore_view
from .weights import (
    Damping,
    DataProduct,
    FittedOptics,
    FrequencyWeights,
    data_product,
    fit_damping,
    frequency_weights,
    relative_to_session,
    relion_columns,
)
from .wiener import SignalSupport, wiener_filter

__all__ = [
    "ICE_SPACINGS_IN_ANGSTROMS",
    "LABELS",
    "ArtefactMask",
    "Background",
    "BandLimitedModel",
    "Damping",
    "DataProduct",
    "Defects",
    "FittedModel",
    "FittedOptics",
    "FrequencyWeights",
    "GainResidue",
    "GainResidueAccumulator",
    "IceSuppression",
    "RefocusableModel",
    "SignalSupport",
    "SpectralTable",
    "View",
    "artefact_mask",
    "data_product",
    "find_defects",
    "fit_background",
    "fit_damping",
    "frequency_weights",
    "relative_to_session",
    "relion_columns",
    "replace_defects",
    "restore_view",
    "restore_view_in_tiles",
    "suppress_crystalline_ice",
    "tabulate",
    "wiener_filter",
]
