"""The MAGI-1 demo checkpoint: its world, training and judging."""
