"""``python -m neuropod_core.cli`` is ``neuropod``."""

from neuropod_core.cli import main

main()
