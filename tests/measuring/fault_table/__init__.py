"""Every operation of the client under every fault, on both backends: what becomes of it, as tests and as a table.

`operations.py` does them again and again and keeps account, `faults.py` strikes, `cells.py` says what may happen and
compares. `python -m tests.measuring.fault_table` runs all of it and writes `results/faults.md`.
"""
