"""The peers, each used as its own documentation says, at the best of the settings that we tried.

They run in a virtual environment of their own (``bench/peers.txt``) and import nothing of Seaway.
"""
