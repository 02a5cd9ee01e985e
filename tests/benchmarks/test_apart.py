"""Measurements in a process of their own."""

import sys

import numpy as np
import pytest

from benchmarks.apart import measured_apart, most_resident, of_status


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")
def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it():
    own = most_resident()
    free = own - of_status("VmRSS")  # what a test before this one took and gave back
    much = np.ones(int((free + 512) * 2**17))
    assert most_resident() > own + 400 and much.any()
    assert measured_apart("tests.benchmarks.peak_of_nothing", []) < most_resident() - 400
