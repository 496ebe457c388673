"""What the Triton models are made of."""
