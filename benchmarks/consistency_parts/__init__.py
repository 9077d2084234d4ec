"""Parts of the benchmark of consistency: planted faults, and gemmi's own functions as a second opinion."""
