# SPDX-License-Identifier: Apache-2.0
"""Episodes on disk and clips in memory."""
