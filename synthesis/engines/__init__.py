"""Engines beside Tacotron 2 + WaveGlow, behind one protocol: Bark and AudioLDM 2, as transformers and diffusers run
them."""
