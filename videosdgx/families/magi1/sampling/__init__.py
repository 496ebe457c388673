"""How MAGI-1 makes a clip: the order of chunks, the guidance, the text, the sampling loop."""
