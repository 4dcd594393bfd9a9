"""Whether an engine takes longer than its budget, by a clock that is given."""

from pipeline.pace import MIN_BATCHES, WINDOW_S, Pace


def test_pace_tells_once_a_minute_that_p99_is_over_the_budget() -> None:
    pace = Pace(5.0)
    said = [pace.note(0.006 if n % 50 == 0 else 0.001, n * WINDOW_S / 200) for n in range(401)]
    assert len([why for why in said if why]) == 2 and "5 of 201 batches" in next(filter(None, said))
    calm = Pace(5.0)
    assert not any(calm.note(0.006 if n % 250 == 0 else 0.001, n * WINDOW_S / 200) for n in range(1, 401))
    few = Pace(5.0)
    assert not any(few.note(1.0, n * WINDOW_S) for n in range(MIN_BATCHES - 1))
    assert Pace(None).note(100.0, 0.0) is None
