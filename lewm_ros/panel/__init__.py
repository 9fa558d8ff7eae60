# SPDX-License-Identifier: Apache-2.0
"""The web panel: what a browser shows, and what it may command; `panel_node` serves it."""
