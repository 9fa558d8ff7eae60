"""Why a back end cannot run."""


class RuntimeLoadError(RuntimeError):
    """A back end that cannot run this bundle here; the message says why and what to do."""
