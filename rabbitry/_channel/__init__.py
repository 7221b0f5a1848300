"""One channel's life on one connection: its operations, and what is published and consumed on it.

Everything here ends with the channel. What goes on in the next life is the client's.
"""
