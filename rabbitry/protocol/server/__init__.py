"""The side that answers: a broker's end of a connection as a state machine over the octets of `wire`. Provisional."""
