"""Recordings of every kind to episodes."""
