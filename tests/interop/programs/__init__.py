"""The peers' programs: each is one library behind the commands of `commands.py`, used as its documentation shows."""
