import numpy as np
import pytest
import torch

from cryoprism.workflow.report._learned_section import learned_section


@pytest.mark.parametrize(
    ("distances", "words"),
    [
        ({0.0: 0.3276, 0.75: 0.3156, 1.0: 0.33}, "nearer by less than 5% of the distance"),
        ({0.0: 0.1, 1.0: 0.2}, "brings no patch nearer"),
    ],
)
def test_the_reason_why_nothing_is_added_is_the_true_one(distances, words):
    picture, maps = np.zeros((8, 8), dtype=np.uint8), torch.zeros(1, 8, 8)
    page = learned_section(0.0, 5, distances, picture, maps, torch.tensor([[4.0, 4.0]]), 1)
    assert words in page
    assert ("no patch nearer" in page) == ("no patch nearer" in words)
