"""Views of results: tables and figures, computed from the rows of a run each time they are asked for.

Nothing here runs methods, metrics or networks; the input is a folder `results/<run_id>/` and nothing else.
"""
