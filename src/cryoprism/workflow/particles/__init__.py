"""From micrographs to particles: pick, train-picker, extract, classify."""
