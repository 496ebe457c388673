"""What every family promises, written once and run for each in `videosdgx.families.FAMILIES`, with tiny random weights."""
