"""Parts of benchmarks/novelty.py: the structures and their copies, large indexes, and what the distances say."""
