"""From a folder of recordings of any kind to a corpus in LJSpeech's layout: clips of 1 to 10 seconds with their text.

sources -> transcripts -> hearing -> cutting -> clips -> checks -> refusals -> corpus
"""
