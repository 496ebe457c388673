"""Finding, downloading and reading checkpoints, LoRAs and random weights."""
