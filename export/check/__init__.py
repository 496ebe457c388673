"""How far an export is from the unquantized model."""
