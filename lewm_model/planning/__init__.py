# SPDX-License-Identifier: Apache-2.0
"""Planning in latent space: what is proposed, how it is searched and scored, and motion that keeps every limit."""
