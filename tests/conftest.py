"""Which tests go to one process where several run side by side (``pytest -n 2 --dist loadgroup``)."""

import pytest


def pytest_collection_modifyitems(config, items):
    """Those of a file, which share its fixtures; and all that need the queue of tiny trainings, which takes minutes to make."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            group = "tiny" if "tiny" in item.fixturenames else item.nodeid.partition("::")[0]
            item.add_marker(pytest.mark.xdist_group(group))
