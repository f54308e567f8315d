"""What the studio's tests share: a service that is loaded, and waiting for it."""

import time

import pytest

from app.follower import Follower
from tests.app.helpers import PATIENCE


@pytest.fixture(scope="session")
def service(studio_checkpoint):
    """The studio's service with that checkpoint, loaded once."""
    from app.service import Service

    loaded = Service(studio_checkpoint)
    loaded.load()
    return loaded


@pytest.fixture
def ended():
    """Waits for a task of the shelf, and returns it."""

    def wait(task):
        deadline = time.monotonic() + PATIENCE
        while not task.done:
            assert time.monotonic() < deadline, task.words
            time.sleep(0.02)
        return task

    return wait


@pytest.fixture
def slow_steps(monkeypatch):
    """No step takes less than 0.03 s, so that on every machine a job of many can be watched and stopped."""
    real = Follower.__call__

    def step(self, *values):
        time.sleep(0.03)
        return real(self, *values)

    monkeypatch.setattr(Follower, "__call__", step)
