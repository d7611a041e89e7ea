"""Fixtures of the races on a real database."""

from __future__ import annotations

from tests.support.simulation import broker

__all__ = ["broker"]
