"""The command line, `python -m rabbitry`: one module for each group of commands, which only the chosen one imports.

What must stay true: it stands on rabbitry's public names alone; what a program reads is on stdout, byte for byte, and
everything else on stderr; a message leaves its queue only after it was written; no password is ever shown.
"""
