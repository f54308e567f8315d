"""Too little memory: a job says so, with what to do; its settings stay, its memory comes back, and the next one runs.

The pipeline is the tiny real one. A step of it asks for more than there is, or fails as a GPU does that has no more.
"""

import weakref

import pytest
import torch

from app import settings
from app.jobs import Jobs
from app.request import EditRequest, GenerateRequest
from app.store import Store
from app.texts import speaking
from app.views import result
from tests.app.helpers import end_of

CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB"


def too_large() -> None:
    torch.empty(2**50, dtype=torch.uint8)  # really refused, by the machine's own allocator


def no_gpu_memory() -> None:
    raise torch.OutOfMemoryError(CUDA)


def no_memory() -> None:
    raise MemoryError


@pytest.fixture
def second_step_fails(service):
    """Has the transformer do something at its second step; what it worked on until then can be asked for."""
    hooks = []

    def install(fail):
        worked_on, calls = [], []

        def step(module, values):
            calls.append(1)
            if len(calls) == 2:
                large = torch.zeros(1000)
                worked_on.append(weakref.ref(large))
                fail()

        hooks.append(service._held.pipeline.transformer.register_forward_pre_hook(step))
        return worked_on

    yield install
    for hook in hooks:
        hook.remove()


@pytest.fixture
def jobs(service, tmp_path):
    running = Jobs(service, Store(tmp_path)).start()
    yield running
    running.close()


def finished(jobs, request):
    return end_of(jobs, jobs.submit(request))


@pytest.mark.parametrize("fail", [too_large, no_gpu_memory, no_memory])
def test_a_step_without_memory_is_a_card_and_the_studio_goes_on(jobs, service, second_step_fails, picture, fail):
    worked_on = second_step_fails(fail)
    request = EditRequest(picture, "make the car blue", seed=5, count=2, guidance_scale=2.5)
    record = finished(jobs, request)
    assert record.state == "failed" and not record.pictures
    card = result(record)
    assert 'class="card"' in card and "That did not work" in card
    for words in ("not enough memory", "fewer pictures", "smaller checkpoint", "Your settings are kept"):
        assert words in card
    assert "CUDA" not in card and "allocate" not in card
    kept = settings.from_record(record, service.defaults).values
    assert (kept["prompt"], kept["seed"], kept["count"], kept["guidance_scale"]) == ("make the car blue", 5, 2, 2.5)
    assert len(worked_on) == 1 and worked_on[0]() is None  # the memory is free again
    assert finished(jobs, EditRequest(picture, "make the car blue", seed=5)).state == "done"


def test_the_words_are_in_the_language_of_whoever_asked(jobs, second_step_fails):
    second_step_fails(no_gpu_memory)
    with speaking("zh"):
        record = finished(jobs, GenerateRequest("a cat", seed=5))
    assert record.state == "failed"
    assert "内存不足" in record.message and "减少图片数量" in record.message
