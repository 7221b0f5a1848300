"""What is measured: `python -m tests.measuring.bench.comparison.libraries LIBRARY JOB URL COUNT --size BYTES` does a
job with a library, and prints its figures.

A module for each library, named as that is imported, with a function for each job: `publish`, `publish_one`, `consume`,
`connections`. What must stay true: clocks begin when all is ready (connected, the queue empty or filled) and end when
the broker has said that all is done; a job whose work was not done in full raises. Nothing but the library is imported.
"""
