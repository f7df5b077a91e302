"""Code that both models share. Nothing here depends on one model or its options."""
