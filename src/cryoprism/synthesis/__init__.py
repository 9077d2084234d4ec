"""Virtual specimens and scenes, rendered to micrographs and movies with every hidden quantity kept."""

from ._samples import Measure, MicrographSet
from .arrangement import Arrangement, Clusters, Filaments, PreferredViews
from .exposure import RadialCorrection, particle_contrast, particle_envelope
from .labels import micrograph_ctf, optics_block, particle_record, particles_block, star_block, write_mtf
from .match_files import read_match, write_match
from .matching import Exemplar, MatchedMicrograph, SessionMatch, draw_exposure, match_session, noise_for
from .noise import NOISE_KINDS, NoiseFit, NoiseKind, add_noise, fit_noise, power_spectrum
from .phantom import Phantom, PhantomKind, phantom
from .placement import Placement, place_particles, place_population
from .realism import REAL_AGAINST_REAL, Gallery, Realism, compare_realism, gallery, measure_realism
from .recipes import Recipe, demo_scenes, dominant_scene, session_scenes, varied_scene
from .render import (
    Engine,
    Particle,
    Rendered,
    detector_of,
    motion_track,
    particle_labels,
    render_micrograph,
    render_movie,
)
from .scene import CAUSES, Scene, intervene, scene_from_dict, scene_to_dict
from .session import Session, SessionConfig, load_specimen, simulate_session
from .species import Helix, Population, Species, as_population, conformations_from_files, morph, repeat_unit
from .specimen import (
    Specimen,
    enclosed_mass_in_kilodaltons,
    project_specimen,
    specimen_from_file,
    specimen_from_phantom,
    specimen_volume,
    specimens_from_file,
)
from .truth import Information, bits_lost, information_in_bits, information_of

__all__ = [
    "CAUSES",
    "NOISE_KINDS",
    "REAL_AGAINST_REAL",
    "Arrangement",
    "Clusters",
    "Engine",
    "Exemplar",
    "Filaments",
    "Gallery",
    "Helix",
    "Information",
    "MatchedMicrograph",
    "Measure",
    "MicrographSet",
    "NoiseFit",
    "NoiseKind",
    "Particle",
    "Phantom",
    "PhantomKind",
    "Placement",
    "Population",
    "PreferredViews",
    "RadialCorrection",
    "Realism",
    "Recipe",
    "Rendered",
    "Scene",
    "Session",
    "SessionConfig",
    "SessionMatch",
    "Species",
    "Specimen",
    "add_noise",
    "as_population",
    "bits_lost",
    "compare_realism",
    "conformations_from_files",
    "demo_scenes",
    "detector_of",
    "dominant_scene",
    "draw_exposure",
    "enclosed_mass_in_kilodaltons",
    "fit_noise",
    "gallery",
    "information_in_bits",
    "information_of",
    "intervene",
    "load_specimen",
    "match_session",
    "measure_realism",
    "micrograph_ctf",
    "morph",
    "motion_track",
    "noise_for",
    "optics_block",
    "particle_contrast",
    "particle_envelope",
    "particle_labels",
    "particle_record",
    "particles_block",
    "phantom",
    "place_particles",
    "place_population",
    "power_spectrum",
    "project_specimen",
    "read_match",
    "render_micrograph",
    "render_movie",
    "repeat_unit",
    "scene_from_dict",
    "scene_to_dict",
    "session_scenes",
    "simulate_session",
    "specimen_from_file",
    "specimen_from_phantom",
    "specimen_volume",
    "specimens_from_file",
    "star_block",
    "varied_scene",
    "write_match",
    "write_mtf",
]
