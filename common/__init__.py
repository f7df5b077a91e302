"""What both models share. Nothing here knows a model, or an option of one."""
