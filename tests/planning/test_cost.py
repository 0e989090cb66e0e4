"""Hours, money and days, as tables and against brute force."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.planning.cost import Hours, Task, cost, critical_path, gpu_hours, hours_of, schedule, totals
from ablate.study import UserError
from tests.studies import study


@pytest.mark.parametrize(
    ("finished", "hours"),
    [
        ({}, (4.5, "declared")),
        ({"F1": []}, (4.5, "declared")),
        ({"F1": [2.0, 4.0]}, (3.0, "measured")),
        ({"F2": [2.0], "F3": [4.0, 4.0]}, (3.0, "measured")),
        ({"F1": [1.0], "F3": [9.0]}, (1.0, "measured")),
    ],
)
def test_measured_hours_replace_declared_ones(finished, hours):
    assert hours_of(study(), "F1", finished) == hours


def test_hours_added_one_by_one_are_those_of_all_at_once():
    finished = {"F1": [2.0, 4.0], "F3": [9.0], "LR2-trial": [0.5]}
    all_at_once, one_by_one = Hours(study(), finished), Hours(study(), {})
    for run in ("F3", "F1", "LR2-trial", "F1"):
        one_by_one.add(run, finished[run].pop(0))
    for run in ("F1", "F3", "F2", "LR4-trial"):
        assert one_by_one.of(run) == (pytest.approx(all_at_once.of(run)[0]), "measured")


def test_money_is_gpu_hours_times_the_price():
    assert gpu_hours(2, 4.5) == 9
    assert cost(2, 4.5, 0.70) == pytest.approx(6.30)


def test_jobs_run_side_by_side_as_far_as_the_gpus_go():
    tasks = [Task(name, 2, 1.0) for name in "abc"]
    assert schedule(tasks, 4) == {"a": 0, "b": 0, "c": 1}
    assert totals(tasks, 4, 0.5).wall_hours == 2
    assert totals(tasks, 4, 0.5).cost == pytest.approx(3.0)


def test_a_job_starts_when_what_it_needs_has_ended():
    tasks = [Task("d", 2, 1.0, ("a", "b")), Task("a", 2, 3.0), Task("b", 2, 1.0, ("finished yesterday",)), Task("c", 2, 1.0)]
    assert schedule(tasks, 4) == {"a": 0, "b": 0, "c": 1, "d": 3}
    assert critical_path(tasks) == (("a", "d"), 4.0)


def test_a_small_job_fills_the_gap_a_big_one_cannot():
    assert schedule([Task("a", 3, 2.0), Task("b", 2, 1.0), Task("c", 1, 1.0)], 4) == {"a": 0, "b": 2, "c": 0}


def test_nothing_to_do_costs_nothing():
    nothing = totals([], 4, 1.0)
    assert (nothing.jobs, nothing.wall_hours, nothing.critical_path) == (0, 0, ())


def test_a_job_that_needs_more_gpus_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"^--gpus 1: F3-s42 needs 2\. Give at least 2, or lower gpus_per_run$"):
        schedule([Task("F3-s42", 2, 1.0)], 1)


@pytest.mark.parametrize("ask", [lambda tasks: schedule(tasks, 4), critical_path])
def test_needs_in_a_circle_are_refused(ask):
    tasks = [Task("a", 1, 1.0), Task("b", 1, 1.0, ("c",)), Task("c", 1, 1.0, ("b",))]
    with pytest.raises(ValueError, match=r"^these need each other in a circle: b, c$"):
        ask(tasks)


@st.composite
def some_tasks(draw):
    tasks = []
    for number in range(draw(st.integers(1, 12))):
        needs = draw(st.lists(st.integers(0, number - 1), max_size=3)) if number else []
        hours = draw(st.integers(1, 8))
        tasks.append(Task(str(number), draw(st.integers(1, 3)), float(hours), tuple(str(need) for need in needs)))
    return draw(st.permutations(tasks))


@settings(max_examples=60, deadline=None)
@given(some_tasks(), st.integers(3, 8))
def test_a_schedule_respects_gpus_and_needs_and_wastes_no_start(tasks, gpus):
    starts = schedule(tasks, gpus)
    ends = {task.key: starts[task.key] + task.hours for task in tasks}
    for task in tasks:
        assert all(ends[need] <= starts[task.key] for need in task.needs)
    for hour in {*starts.values(), *ends.values()}:
        free = gpus - sum(task.gpus for task in tasks if starts[task.key] <= hour < ends[task.key])
        assert free >= 0
        waiting = [task for task in tasks if starts[task.key] > hour and all(ends[need] <= hour for need in task.needs)]
        assert not any(task.gpus <= free for task in waiting)
    _, length = critical_path(tasks)
    assert totals(tasks, 1000, 0).wall_hours == length <= max(ends.values())


def test_ten_thousand_jobs_are_laid_out_at_once():
    tasks = [Task(str(number), 2, 1.0, (str(number - 3),) if number > 3 else ()) for number in range(10_000)]
    assert len(schedule(tasks, 8)) == 10_000
    assert critical_path(tasks)[1] > 3000
