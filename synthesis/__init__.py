"""Text to audio, for inference.py and for other programs. It imports no training code."""
