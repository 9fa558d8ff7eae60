# SPDX-License-Identifier: Apache-2.0
"""How good a model and its planner are: tasks, closed loop, figures."""
