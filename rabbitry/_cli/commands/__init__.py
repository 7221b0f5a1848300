"""What runs the commands: one module for each group of them, which `program` imports by the name that the flags give.

What must stay true: nothing imports a module of these but `program`, so that no command waits for another's imports.
"""
