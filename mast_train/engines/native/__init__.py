"""Training's networks in C, sparse, forward and backward. The torch path is the oracle. Needs float32 on the CPU.

agents: the agents over whole sequences; mixer, optimizer and targets: what follows them in an update. The extension
takes tensors by name and checks them all: what does not fit is a TypeError or ValueError, never a fault of memory.
"""

from mast_train.engines.native.agents import SparseSequence, Values, Wanted, together
from mast_train.engines.native.extension import available, check_level, levels, status
from mast_train.engines.native.inputs import Inputs, arranged, plain

__all__ = [
    "Inputs",
    "SparseSequence",
    "Values",
    "Wanted",
    "arranged",
    "available",
    "check_level",
    "levels",
    "plain",
    "status",
    "together",
]
