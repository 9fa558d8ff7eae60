"""Episodes on disk and clips in memory."""
