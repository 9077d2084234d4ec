"""Assess the model of a job and print what was found and what is missing.

Run: python examples/assess_a_model.py model.cif Refine/job001 known assessed
"""

import sys

from cryoprism.workflow import AssessConfig, assess_session

if __name__ == "__main__":
    model, record, index, output = sys.argv[1:]
    summary = assess_session(AssessConfig(model_file=model, record=record, index=index, output=output))
    for sentence in summary.sentences:
        print(sentence)
    for question, why in summary.unavailable.items():
        print(f"{question}: not available. {' '.join(why)}")
    print(f"Report: {summary.report}")
