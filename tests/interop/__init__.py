"""rabbitry beside other clients of RabbitMQ: each runs in a process of its own and does as the tests say.

`values.py` has the table of what each of them changes or can't express. `nox -s interop` runs all, with Node's clients;
`nox -s tests` those in Python.
"""
