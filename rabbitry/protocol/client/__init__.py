"""The side that asks: a client's connection and its channels as state machines over the octets of `wire`."""
