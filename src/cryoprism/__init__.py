"""CryoPrism: one causal model of the cryo-electron microscope, run forward, backward and counterfactually."""

__version__ = "0.1.0"
