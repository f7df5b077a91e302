"""Text to audio, for programs, the command and a server. It imports no training code."""
