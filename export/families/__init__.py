"""What an export of each family has of its own."""
