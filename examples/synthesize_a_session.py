"""Labelled micrographs that look like those of a session, and a picker for its particle.

    python examples/synthesize_a_session.py MAP MICROGRAPHS MASS

MAP is a map (MRC) or a structure, MICROGRAPHS a STAR file or folder of real micrographs, MASS the particle's mass in
kilodaltons. Writes the folder ``synthetic``.
"""

import sys

from cryoprism.workflow import SynthesizeConfig, synthesize_session

if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    summary = synthesize_session(
        SynthesizeConfig(
            maps=sys.argv[1],
            match=sys.argv[2],
            mass_in_kilodaltons=float(sys.argv[3]),
            count=30,
            train_picker=True,
            output="synthetic",
        )
    )
    print(f"{summary.particles} labelled particles in {summary.micrographs} micrographs; open {summary.report}")
    print(f"Picker: {summary.picker} ({summary.picker_words})")
