"""Restore a folder of micrographs and say what took most of the information.

Run: python examples/restore_a_session.py micrographs.star run
"""

import sys

from cryoprism.workflow import RestoreConfig, explanation_of, restore_session

if __name__ == "__main__":  # more than one worker starts this file again in each of them
    source, output = sys.argv[1:]
    summary = restore_session(RestoreConfig(inputs=(source,), output=output, workers=2))
    print(f"{summary.restored} of {summary.micrographs} restored; report: {summary.report}")
    for sentence in explanation_of(summary.output).sentences:
        print(sentence)
