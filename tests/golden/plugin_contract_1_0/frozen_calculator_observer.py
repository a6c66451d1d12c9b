"""An observer that counts, written for contract 1.0 of neuropod."""

from neuropod_core import hookimpl


class Observer:
    loaded = []
    failed = []

    @staticmethod
    @hookimpl
    def neuropod_model_loaded(model):
        Observer.loaded.append(model.name)

    @staticmethod
    @hookimpl
    def neuropod_call_failed(model, error):
        Observer.failed.append((model.name, str(error)))
