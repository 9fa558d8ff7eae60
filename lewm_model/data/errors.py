# SPDX-License-Identifier: Apache-2.0
"""Why a recording cannot be used."""


class DataError(ValueError):
    """A recording that cannot be used; the message says what is wrong with it and what to do."""
