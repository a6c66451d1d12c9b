"""The suite that every backend passes, as the wheel ships it."""

from __future__ import annotations

from neuropod_xgboost.conformance import TestXGBoost

__all__ = ["TestXGBoost"]
