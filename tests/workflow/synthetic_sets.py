"""Sets of synthetic micrographs that tests of the command share."""

from cryoprism.workflow import SynthesizeConfig


def config_for(session, out, **changes):
    """Two micrographs matched to the two of the fixture ``session``."""
    values = {
        "maps": (str(session / "shell.mrc"),),
        "mass_in_kilodaltons": 480.0,
        "symmetry": "O",
        "match": (str(session / "real" / "micrographs.star"),),
        "coordinates": session / "real" / "particles.star",
        "count": 2,
        "output": out,
        "realism": False,
    }
    return SynthesizeConfig(**(values | changes))
