# SPDX-License-Identifier: Apache-2.0
"""Recipes: one command records, trains, calibrates, exports and evaluates a model."""
