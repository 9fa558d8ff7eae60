# SPDX-License-Identifier: Apache-2.0
"""Comparisons with the authors' code and with other methods: planner, training, data loading, equivalence."""
