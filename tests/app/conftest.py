"""What the studio's tests share: a service that is loaded, and waiting for it."""

import time

import pytest


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
        deadline = time.monotonic() + 120
        while not task.done:
            assert time.monotonic() < deadline, task.words
            time.sleep(0.02)
        return task

    return wait
