"""Virtual specimens and scenes, rendered to micrographs and movies with every hidden quantity kept."""

from .phantom import Phantom, PhantomKind, phantom
from .recipes import Recipe, demo_scenes, dominant_scene, session_scenes, varied_scene
from .render import Engine, Particle, Rendered, detector_of, motion_track, render_micrograph, render_movie
from .scene import CAUSES, Placement, Scene, intervene, place_particles, scene_from_dict, scene_to_dict
from .session import Session, SessionConfig, load_specimen, simulate_session
from .specimen import Specimen, project_specimen, specimen_from_file, specimen_from_phantom
from .truth import Information, bits_lost, information_in_bits, information_of

__all__ = [
    "CAUSES",
    "Engine",
    "Information",
    "Particle",
    "Phantom",
    "PhantomKind",
    "Placement",
    "Recipe",
    "Rendered",
    "Scene",
    "Session",
    "SessionConfig",
    "Specimen",
    "bits_lost",
    "demo_scenes",
    "detector_of",
    "dominant_scene",
    "information_in_bits",
    "information_of",
    "intervene",
    "load_specimen",
    "motion_track",
    "phantom",
    "place_particles",
    "project_specimen",
    "render_micrograph",
    "render_movie",
    "scene_from_dict",
    "scene_to_dict",
    "session_scenes",
    "simulate_session",
    "specimen_from_file",
    "specimen_from_phantom",
    "varied_scene",
]
