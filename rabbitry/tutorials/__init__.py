"""RabbitMQ's tutorials on rabbitry, each a module of two short programs: `python -m rabbitry.tutorials` lists them.

They are for reading, and are run as they stand; nothing of rabbitry needs them.
"""
