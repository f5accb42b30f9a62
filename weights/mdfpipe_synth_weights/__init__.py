"""Weights of the demo's detector, trained on synthetic data only. mdfpipe finds the file beside this one."""
