"""The Ray launcher's check of resources; tests/engines uses a real cluster."""

from __future__ import annotations

from tmqc.sweep.ray_launcher import lack_of_room


def test_jobs_that_fit_no_machine_are_reported():
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 1.0}}]
    assert lack_of_room(nodes, {"num_cpus": 2, "num_gpus": 0, "max_retries": 3}) is None
    assert "num_cpus=4 and num_gpus=0" in lack_of_room(nodes, {"num_cpus": 4, "num_gpus": 0, "max_retries": 3})
    assert "(available: 2 and 0)" in lack_of_room(nodes, {"num_cpus": 1, "num_gpus": 1, "max_retries": 3})
