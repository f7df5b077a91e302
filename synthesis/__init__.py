"""From text to audio, for every way in: programs, the command, a server. It imports nothing of training."""
