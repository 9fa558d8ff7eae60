# SPDX-License-Identifier: Apache-2.0
"""What is compared with others: planner, training, loading, equivalence."""
