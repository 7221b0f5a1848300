"""The operator's view of a broker: where its rows come from, and what looks wrong in them.

What must stay true: nothing here needs the client, an event loop or a connection by AMQP.
"""
