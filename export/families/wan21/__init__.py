"""Wan 2.1: its transformer as it is exported, its policy, its pipeline around the engine."""
