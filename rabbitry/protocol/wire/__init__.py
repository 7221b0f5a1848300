"""The octets that both sides of AMQP 0-9-1 agree on. Functions and values only: nothing here has a state or a side."""
