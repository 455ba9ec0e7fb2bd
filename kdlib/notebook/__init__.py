"""One notebook: executed by papermill in a process of its own, and rendered as one page."""
