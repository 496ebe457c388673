"""One export from checkpoint to artifact: settings, stages, progress."""
