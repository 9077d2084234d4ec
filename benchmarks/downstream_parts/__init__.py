"""Parts of the benchmark of training sets."""
