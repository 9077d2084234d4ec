"""From particles to a map: initial-model, refine, reconstruct, resolution, ctf-refine, and process, all in one."""
