"""A real RabbitMQ, private to a test: nodes and clusters of them, how they are set up, guarded, alarmed and installed.

What must stay true: nothing here imports anything of rabbitry but this room, so that a broker can be had where the
client is broken, or is another; and no process or file outlives the program that asked for it.
"""
