# SPDX-License-Identifier: Apache-2.0
"""Validation of the whole system: fault injection, fuzzing, soak tests, evaluation, and checks of the code."""
