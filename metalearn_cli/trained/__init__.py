"""What a trained model is used for: adapt, predict, export, and tell what it has not seen."""
