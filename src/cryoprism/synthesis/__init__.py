"""Virtual specimens and scenes, rendered to micrographs and movies with every hidden quantity kept."""

from .arrangement import Arrangement, Clusters, Filaments, PreferredViews
from .phantom import Phantom, PhantomKind, phantom
from .placement import Placement, place_particles, place_population
from .recipes import Recipe, demo_scenes, dominant_scene, session_scenes, varied_scene
from .render import Engine, Particle, Rendered, detector_of, motion_track, render_micrograph, render_movie
from .scene import CAUSES, Scene, intervene, scene_from_dict, scene_to_dict
from .session import Session, SessionConfig, load_specimen, simulate_session
from .species import Helix, Population, Species, as_population, conformations_from_files, morph, repeat_unit
from .specimen import (
    Specimen,
    enclosed_mass_in_kilodaltons,
    project_specimen,
    specimen_from_file,
    specimen_from_phantom,
    specimens_from_file,
)
from .truth import Information, bits_lost, information_in_bits, information_of

__all__ = [
    "CAUSES",
    "Arrangement",
    "Clusters",
    "Engine",
    "Filaments",
    "Helix",
    "Information",
    "Particle",
    "Phantom",
    "PhantomKind",
    "Placement",
    "Population",
    "PreferredViews",
    "Recipe",
    "Rendered",
    "Scene",
    "Session",
    "SessionConfig",
    "Species",
    "Specimen",
    "as_population",
    "bits_lost",
    "conformations_from_files",
    "demo_scenes",
    "detector_of",
    "dominant_scene",
    "enclosed_mass_in_kilodaltons",
    "information_in_bits",
    "information_of",
    "intervene",
    "load_specimen",
    "morph",
    "motion_track",
    "phantom",
    "place_particles",
    "place_population",
    "project_specimen",
    "render_micrograph",
    "render_movie",
    "repeat_unit",
    "scene_from_dict",
    "scene_to_dict",
    "session_scenes",
    "simulate_session",
    "specimen_from_file",
    "specimen_from_phantom",
    "specimens_from_file",
    "varied_scene",
]
