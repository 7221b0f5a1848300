"""The command line, `python -m rabbitry`. `flags/` says what each command takes, `commands/` has a module for each
group of commands, which is imported when one of them is chosen, `operator/` what a broker tells those who run it.

What must stay true: it stands on rabbitry's public names alone; what a program reads is on stdout, byte for byte, and
everything else on stderr; a message leaves its queue only after it was written; no password is ever shown.
"""
