"""Everything that is particular to Triton: starting it, calling models, loading and unloading them."""
