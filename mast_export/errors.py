"""The error of this package."""


class ExportError(Exception):
    """An export that does not count: it failed its check, or cannot be written. The message is one line."""
