"""Figures of the engine, each beside the raw Celery canvas of the same shape. `make bench` runs them."""
