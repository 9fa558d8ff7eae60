# SPDX-License-Identifier: Apache-2.0
"""Recordings of every kind to episodes."""
