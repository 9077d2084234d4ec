"""Learned noise: what physics and a fitted spectrum leave, added as a residual that keeps the signal."""

from .fields import RealField, SyntheticField
from .losses import band_shares
from .sampling import particle_mask
from .settings import TRANSLATION_MODES, TranslationMode, TranslationSettings
from .similarity import SimilarityMaps, query_points, similarity_maps
from .strength import LEAST_GAIN
from .training import TrainedTranslator, train_translator
from .translator import Translator, load_translator, save_translator

__all__ = [
    "LEAST_GAIN",
    "TRANSLATION_MODES",
    "RealField",
    "SimilarityMaps",
    "SyntheticField",
    "TrainedTranslator",
    "TranslationMode",
    "TranslationSettings",
    "Translator",
    "band_shares",
    "load_translator",
    "particle_mask",
    "query_points",
    "save_translator",
    "similarity_maps",
    "train_translator",
]
