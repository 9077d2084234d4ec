"""Parts of benchmarks/realism.py: its material, and the ways to make micrographs that it compares."""
