"""Every file in and out, and every conversion of conventions; no other room knows a file's convention."""

from .catalogue import read_catalogue
from .checksums import sha256_of_ends, sha256_of_file
from .coordinates import Coordinates, read_coordinates, write_coordinates
from .cryosparc import Locations, pose_to_euler, read_cs, write_locations
from .detectors import Mtf, read_mtf
from .images import Image, ImageInfo, read_image, read_image_info
from .maps import Volume, read_map, write_map
from .metadata import find_acquisition, read_epu_xml, read_mdoc
from .movies import Movie, MovieInfo, iterate_movie, read_gain, read_movie, read_movie_info, sum_movie
from .mrc import MrcHeader, read_mrc, read_mrc_header, write_mrc
from .particle_writing import write_particles
from .particles import Particles, read_particles
from .records import Acquisition, Catalogue, CtfRecord, MicrographRecord, OpticsGroup
from .relion import portable_name, write_micrographs_star
from .stacks import read_particle_images, write_stack
from .star import StarBlock, read_star, write_star
from .structures import Atoms, parse_structure, read_structure
from .weights import read_checkpoint, read_weights, write_checkpoint, write_weights

__all__ = [
    "Acquisition",
    "Atoms",
    "Catalogue",
    "Coordinates",
    "CtfRecord",
    "Image",
    "ImageInfo",
    "Locations",
    "MicrographRecord",
    "Movie",
    "MovieInfo",
    "MrcHeader",
    "Mtf",
    "OpticsGroup",
    "Particles",
    "StarBlock",
    "Volume",
    "find_acquisition",
    "iterate_movie",
    "parse_structure",
    "portable_name",
    "pose_to_euler",
    "read_catalogue",
    "read_checkpoint",
    "read_coordinates",
    "read_cs",
    "read_epu_xml",
    "read_gain",
    "read_image",
    "read_image_info",
    "read_map",
    "read_mdoc",
    "read_movie",
    "read_movie_info",
    "read_mrc",
    "read_mrc_header",
    "read_mtf",
    "read_particle_images",
    "read_particles",
    "read_star",
    "read_structure",
    "read_weights",
    "sha256_of_ends",
    "sha256_of_file",
    "sum_movie",
    "write_checkpoint",
    "write_coordinates",
    "write_locations",
    "write_map",
    "write_micrographs_star",
    "write_mrc",
    "write_particles",
    "write_stack",
    "write_star",
    "write_weights",
]
