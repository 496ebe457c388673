"""Wan 2.1 for planning."""
