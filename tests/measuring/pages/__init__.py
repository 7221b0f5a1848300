"""What `results/` shows, made from the files in it: a page and pictures for each result, an index that answers the C10K
question, and the pictures in the project's README.

`folder.py` says what each file is, `rebuild.py` makes pages and pictures, `index.py` the index, `readme.py` the
README's part. What must stay true: nothing is measured here, and nothing is told that no file says: a result that is
not there is not mentioned.
"""
