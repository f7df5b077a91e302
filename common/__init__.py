"""What both models share; nothing here knows a model."""
