"""Cases of bad input, by what they are given to; ``bad_input.py`` beside this folder runs them."""

from .judging import CASES as JUDGING
from .making import LENS, Case, folder_of
from .maps import CASES as MAPS
from .particles import CASES as PARTICLES
from .picking import CASES as PICKING
from .restoring import CASES as RESTORING
from .synthesizing import CASES as SYNTHESIZING

__all__ = ["CASES", "LENS", "Case", "folder_of"]

CASES = (*RESTORING, *PICKING, *PARTICLES, *MAPS, *SYNTHESIZING, *JUDGING)
