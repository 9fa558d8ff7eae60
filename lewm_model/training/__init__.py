# SPDX-License-Identifier: Apache-2.0
"""From a recording to a bundle."""
