"""What users hand in and get back: messages, topology, addresses, durations, and the words that options take.

What must stay true: values are inert. They open nothing, wait for nothing and know no connection, so whoever holds one
may compare, copy and pickle it, and every floor above may use them. They stand on `protocol.wire` and the errors alone.
"""
