# SPDX-License-Identifier: Apache-2.0
"""Tasks: how they begin, what their goal is, when they succeeded."""
