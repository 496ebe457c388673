"""The Wan 2.1 demo checkpoint: training and judging."""
