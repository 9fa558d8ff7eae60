# SPDX-License-Identifier: Apache-2.0
"""The world model and its heads, as networks."""
