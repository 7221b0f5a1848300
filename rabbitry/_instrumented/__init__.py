"""The channels, consumers, deliveries, callers and clients of whoever gave an instrumentation: the plain ones, telling.

A connection or client without one makes none of these, and no code of this room runs for it.
"""
