"""MAGI-1 for planning."""
