"""AMQP 0-9-1 as a sans-IO state machine: bytes in, events out; no clock, no I/O, no await.

`tables`, `methods` and `properties` are the codec; `channel` and `connection` the state. Time is an argument, waiting
is somebody else's business, and nothing a peer sends makes `Connection.receive_data` raise.
"""
