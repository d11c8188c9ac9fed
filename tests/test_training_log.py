"""The log of a run: records, what a resumed run drops, and TensorBoard where it is installed."""

from __future__ import annotations

import pytest

from cmsei_fast.training.log import Log, read_log


def test_a_resumed_run_drops_what_it_will_do_again(tmp_path):
    log = Log(tmp_path)
    for step in range(1, 6):
        log.write(step, loss=float(step))
    log.close()
    with open(tmp_path / "log.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 6, "lo')  # killed while it wrote
    Log(tmp_path, step=3).write(4, loss=40.0)
    assert [(r["step"], r["loss"]) for r in read_log(tmp_path / "log.jsonl")] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 40.0),
    ]


def test_lines_that_are_no_records_are_passed_over(tmp_path):
    lines = [b'{"step": 1}', b"\xff", b"[" * 100_000, b"5", b'{"step": "2"}', b"", b'{"step": 3}', b'{"st']
    (tmp_path / "log.jsonl").write_bytes(b"\n".join(lines))
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}, {"step": 3}]


def test_processes_that_do_not_write_leave_nothing(tmp_path):
    log = Log(tmp_path, enabled=False)
    log.write(1, loss=1.0)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log(tmp_path)
    log.write(1, loss=2.5, validation={"i2t": {"R@1": 3.0}}, note="text")
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "validation/i2t/R@1"}
    assert [(e.step, e.value) for e in events.Scalars("validation/i2t/R@1")] == [(1, 3.0)]
