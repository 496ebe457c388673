"""Video files: writing them, in one piece or in fragments, and reading what a clip starts from."""
