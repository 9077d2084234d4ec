"""Foundations: units, Fourier transforms, rotations and point groups, devices, random numbers, typed errors."""

from .devices import resolve_device, single_threaded
from .errors import HOW_TO_INSTALL_ASSESS, ConvergenceError, CryoPrismError, CryoPrismWarning, InputError, OutputError
from .fourier import (
    fourier_crop,
    frequency_grid,
    frequency_magnitude,
    half_plane_weights,
    irfft2,
    radial_average,
    rfft2,
    volume_frequency_grid,
)
from .memory import keep_freed_memory
from .random import generator_for
from .rotations import euler_to_matrix, matrix_to_euler, point_group_matrices, random_rotations
from .sampling import (
    direction_grid,
    healpix_children,
    healpix_directions,
    in_plane_step_in_degrees,
    orientation_grid,
)
from .units import (
    ANGSTROMS_PER_MILLIMETER,
    ANGSTROMS_PER_NANOMETER,
    AVOGADRO,
    electron_wavelength_in_angstroms,
    interaction_constant,
)

__all__ = [
    "ANGSTROMS_PER_MILLIMETER",
    "ANGSTROMS_PER_NANOMETER",
    "AVOGADRO",
    "HOW_TO_INSTALL_ASSESS",
    "ConvergenceError",
    "CryoPrismError",
    "CryoPrismWarning",
    "InputError",
    "OutputError",
    "direction_grid",
    "electron_wavelength_in_angstroms",
    "euler_to_matrix",
    "fourier_crop",
    "frequency_grid",
    "frequency_magnitude",
    "generator_for",
    "half_plane_weights",
    "healpix_children",
    "healpix_directions",
    "in_plane_step_in_degrees",
    "interaction_constant",
    "irfft2",
    "keep_freed_memory",
    "matrix_to_euler",
    "orientation_grid",
    "point_group_matrices",
    "radial_average",
    "random_rotations",
    "resolve_device",
    "rfft2",
    "single_threaded",
    "volume_frequency_grid",
]
