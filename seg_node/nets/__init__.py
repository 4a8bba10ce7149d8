"""Networks, and the one place that builds and loads them (`build.py`)."""
