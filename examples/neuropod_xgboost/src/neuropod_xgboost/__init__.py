"""Gradient-boosted trees for neuropod, run by XGBoost."""
