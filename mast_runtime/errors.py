"""Every error a caller of the runtime can meet, each a one-line message: what was given, expected, what to do."""


class RuntimeFault(Exception):
    """Base of all errors raised on purpose by mast_runtime."""


class BundleError(RuntimeFault):
    """A .mast file that is damaged, hostile or of another version. `tensor` names the part, or is empty."""

    def __init__(self, message: str, tensor: str = "") -> None:
        super().__init__(f"{tensor}: {message}" if tensor else message)
        self.tensor = tensor


class ObservationError(RuntimeFault, ValueError):
    """An observation or availability mask of the wrong shape or with a value that is not finite."""


class BackendError(RuntimeFault):
    """A backend that is unknown, not installed, or cannot run this network."""


class SlowWarning(RuntimeWarning):
    """There is no compiled kernel, and decisions are made without it."""


class ServeError(RuntimeFault):
    """The server cannot start: a port in use, a missing extra, an agent or a limit that cannot be."""
