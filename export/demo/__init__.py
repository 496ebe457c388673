"""Small checkpoints with the real architectures, trained from scratch on a synthetic captioned world."""
