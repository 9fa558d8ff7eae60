# SPDX-License-Identifier: Apache-2.0
"""What is done to the system: faults, fuzz, soak, checks."""
