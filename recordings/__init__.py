"""From a folder of recordings to a corpus and a voice."""
