"""What each `model.py` of the model repository names."""
