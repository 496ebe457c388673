"""Checkpoint to calibrated, quantized, verified and compiled engine."""
