"""Exporting MAGI-1."""
