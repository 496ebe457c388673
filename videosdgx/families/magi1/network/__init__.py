"""MAGI-1's transformer and autoencoder."""
