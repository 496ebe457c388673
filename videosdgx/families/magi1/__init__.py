"""MAGI-1: long video, chunk by chunk."""
