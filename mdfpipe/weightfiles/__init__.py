"""Weight files: any checkpoint opened without running anything, and the tensors taken out of it.

One owner for the weights of networks and of detectors: `opening.py` opens, `plain.py` lists what may be stored with
tensors, `entries.py` which of several sets is taken.
"""

from mdfpipe.weightfiles.entries import AVERAGED, INSIDE, Taken, describe_sets, refuse_unusable, take
from mdfpipe.weightfiles.opening import open_tensors

__all__ = [
    "AVERAGED",
    "INSIDE",
    "Taken",
    "describe_sets",
    "open_tensors",
    "refuse_unusable",
    "take",
]
