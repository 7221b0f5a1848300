"""Faults of the network between a client and a broker: those that a test asks for, and those that a seed draws.

What must stay true: nothing fails unless somebody says so, and nothing here knows AMQP, rabbitry, or how a broker is
run, so that it serves the tests of any client.
"""
