# SPDX-License-Identifier: Apache-2.0
"""Errors of back ends."""


class RuntimeLoadError(RuntimeError):
    """A back end cannot run a bundle on this machine; the message says why and what to do."""


class InferenceError(RuntimeError):
    """A loaded back end failed while it ran; the message says why and what to do."""
