# SPDX-License-Identifier: Apache-2.0
"""Why a back end cannot run."""


class RuntimeLoadError(RuntimeError):
    """A back end that cannot run this bundle here; the message says why and what to do."""


class InferenceError(RuntimeError):
    """A loaded back end that failed while it ran; the message says what and what to do."""
