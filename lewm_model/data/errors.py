# SPDX-License-Identifier: Apache-2.0
"""The error of everything that reads recordings."""


class DataError(ValueError):
    """A recording that cannot be used; the message says what is wrong with it and what to do."""
