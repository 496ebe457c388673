"""MAGI-1's transformer on compiled graphs, as a component that keeps keys and values."""
