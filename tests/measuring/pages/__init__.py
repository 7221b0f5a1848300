"""What `results/` shows, made from the files in it: a page and pictures for each result, an index that answers the C10K
question, and what the project's README shows of them.

`folder.py` says what each file is, `rebuild.py` makes pages and pictures, `index.py` the index, `brief.py` the pictures
of the README and `readme.py` its parts. What must stay true: nothing is measured here, and nothing is told that no file
says: a result that is not there is not mentioned.
"""
