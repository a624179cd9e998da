"""Execute, measure and serve sparse policies. Needs numpy, imported only where used, and safetensors; never torch."""

from mast_runtime.bundle import AgentInfo, Bundle, load, save
from mast_runtime.errors import BackendError, BundleError, ObservationError, RuntimeFault
from mast_runtime.format import Identity
from mast_runtime.network import Contract, Layer, Network
from mast_runtime.version import __version__

__all__ = [
    "AgentInfo",
    "BackendError",
    "Bundle",
    "BundleError",
    "Contract",
    "Identity",
    "Layer",
    "Network",
    "ObservationError",
    "RuntimeFault",
    "__version__",
    "load",
    "native_status",
    "save",
]


def native_status() -> str:
    """One line: the instruction set of the C kernels in use ("native: avx512"), or why there are none."""
    from mast_runtime.native import status

    return status()
