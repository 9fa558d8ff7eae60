# SPDX-License-Identifier: Apache-2.0
"""One command from nothing to a model."""
