"""Parts of benchmarks/restore.py: its material, what is measured, Topaz-Denoise, and the negative controls."""
