"""The store: what it acknowledged is on disk, whatever happens; damage and a second owner are one clear error."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from automl.errors import DataError, ResourceError, UsageError
from automl.search.plan import Plan
from automl.search.store import Store
from automl.search.trial import Measurement, Trial


def trial(number: int, **changes: object) -> Trial:
    fields: dict[str, object] = {
        "number": number,
        "plan": Plan("linear", (("C", 0.1 * number),)),
        "rows": 1000,
        "rung": 1,
        "status": "completed",
        "measurement": Measurement(error=0.1, latency_p50_seconds=1e-5),
        "point": (("family", "linear"), ("C", 0.1 * number)),
    }
    return Trial(**(fields | changes))  # type: ignore[arg-type]


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "run" / "run.db"
    trials = [trial(1), trial(0, status="timeout", reason="after 3 s", measurement=Measurement())]
    losses = np.random.default_rng(0).random(500).astype(np.float32)
    with Store.create(path, {"seed": 3, "families": ["linear"]}) as store:
        store.put_array(1, "validation", losses)
        store.put_array(1, "holdout", np.empty(0, np.float32))
        for one in trials:
            store.add_trial(one)
        store.set_meta("elapsed", 1.5)
    with Store.open(path) as store:
        assert store.trials() == sorted(trials, key=lambda t: t.number)
        assert np.array_equal(store.array(1, "validation"), losses)  # type: ignore[arg-type]
        assert store.array(0, "validation") is None
        assert {k: v.shape for k, v in store.arrays("holdout").items()} == {1: (0,)}
        assert store.get_meta("seed") == 3
        assert store.get_meta("elapsed") == 1.5
        assert store.get_meta("nothing", "else") == "else"


def test_a_number_told_again_replaces_the_former(tmp_path: Path) -> None:
    with Store.create(tmp_path / "run.db") as store:
        store.add_trial(trial(4, status="skipped"))
        store.add_trial(trial(4))
        assert [t.status for t in store.trials()] == ["completed"]


def test_arrays_keep_their_type_and_shape_and_hold_no_objects(tmp_path: Path) -> None:
    with Store.create(tmp_path / "run.db") as store:
        for i, array in enumerate(
            [np.arange(6).reshape(2, 3), np.array(2.5), np.array([True]), np.zeros((0, 4), np.float32)]
        ):
            store.put_array(i, "x", array)
            again = store.array(i, "x")
            assert again is not None
            assert again.dtype == array.dtype
            assert again.shape == array.shape
            assert np.array_equal(again, array)
        with pytest.raises(UsageError, match="holds objects"):
            store.put_array(0, "x", np.array([object()]))


def test_threads_share_it(tmp_path: Path) -> None:
    with Store.create(tmp_path / "run.db") as store:

        def add(first: int) -> None:
            for number in range(first, first + 20):
                store.put_array(number, "validation", np.full(3, number, np.float32))
                store.add_trial(trial(number))

        threads = [threading.Thread(target=add, args=(20 * i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Store.open(tmp_path / "run.db", read_only=True) as store:
        assert [t.number for t in store.trials()] == list(range(80))
        assert all((a == n).all() for n, a in store.arrays("validation").items())


WRITER = """
import sys, numpy as np
sys.path.insert(0, {tests!r})
from test_store import trial
from automl.search.store import Store
store = Store.create({path!r}) if {first} else Store.open({path!r})
number = len(store.trials())
while True:
    store.put_array(number, "validation", np.full(2000, number, np.float32))
    store.add_trial(trial(number))
    print(number, flush=True)
    number += 1
"""


def test_killed_at_any_moment_it_loses_no_acknowledged_trial(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    known = 0
    for round_ in range(5):
        code = WRITER.format(tests=str(Path(__file__).parent), path=str(path), first=round_ == 0)
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(7 + 5 * round_)]
        os.kill(writer.pid, signal.SIGKILL)
        said += [int(line) for line in writer.stdout.read().splitlines()]
        writer.stdout.close()
        writer.wait()
        with Store.open(path) as store:  # the dead owner's lock is no obstacle
            numbers = [t.number for t in store.trials()]
            assert numbers == list(range(len(numbers)))
            assert len(numbers) > said[-1] >= known
            losses = store.arrays("validation")
            assert all((losses[n] == n).all() for n in numbers)
            known = len(numbers) - 1


def test_a_second_owner_is_refused_while_the_first_lives_and_readers_are_not(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with Store.create(path) as store:
        store.add_trial(trial(0))
        with pytest.raises(ResourceError, match=f"in use by process {os.getpid()}"):
            Store.open(path)
        with Store.open(path, read_only=True) as reader:
            assert len(reader.trials()) == 1
            with pytest.raises(ResourceError, match="readonly"):
                reader.add_trial(trial(1))
    with Store.open(path) as store:
        store.add_trial(trial(1))


def test_an_existing_store_is_never_overwritten(tmp_path: Path) -> None:
    Store.create(tmp_path / "run.db").close()
    with pytest.raises(UsageError, match="exists: resume that run, or choose another folder"):
        Store.create(tmp_path / "run.db")


def test_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run at"):
        Store.open(tmp_path / "nowhere" / "run.db")


@pytest.mark.parametrize("content", [b"", b"a text, not a database\n" * 100, b"SQLite format 3\x00" + b"\x07" * 4000])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_no_store_is_one_clear_error(tmp_path: Path, content: bytes, read_only: bool) -> None:
    (tmp_path / "run.db").write_bytes(content)
    with pytest.raises(DataError, match=r"run\.db is not a run's store, or is damaged"):
        Store.open(tmp_path / "run.db", read_only=read_only)
    assert (tmp_path / "run.db").read_bytes() == content or content.startswith(b"SQLite") or content == b""


def test_another_programs_database_is_one_clear_error(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "run.db")
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    with pytest.raises(DataError, match="is not a run's store"):
        Store.open(tmp_path / "run.db")


def test_damage_in_the_middle_is_found_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with Store.create(path) as store:
        for number in range(200):
            store.put_array(number, "validation", np.full(500, number, np.float32))
        store.add_trial(trial(0))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        Store.open(path)
    path.write_bytes(whole[:8192] + b"\xff" * 16384 + whole[24576:])
    with pytest.raises(DataError, match="damaged"):
        Store.open(path)
    path.write_bytes(whole)
    Store.open(path).close()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    Store.create(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    connection.commit()
    connection.close()
    with pytest.raises(DataError, match="has format 99, this version reads up to 2"):
        Store.open(path)


def test_an_older_format_is_upgraded_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.db"
    Store.create(path).close()
    monkeypatch.setattr("automl.search.store.FORMAT", 4)
    monkeypatch.setattr(
        "automl.search.store.UPGRADES", {2: ("CREATE TABLE two (x)",), 3: ("ALTER TABLE two ADD COLUMN y",)}
    )
    with Store.open(path) as store:
        assert store.get_meta("format") == 4
    with Store.open(path) as store:
        assert store.get_meta("format") == 4
        with pytest.raises(UsageError, match="the store's own"):
            store.set_meta("format", 1)


def test_a_store_of_format_1_has_whole_models_only(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((Path(__file__).parent / "store_format_1.sql").read_text())
    connection.close()
    with Store.open(path, read_only=True) as store:
        assert len(store.trials()) == 2
    with Store.open(path) as store:
        assert store.get_meta("format") == 2
        first, second = store.trials()
        assert (first.number, first.status, first.parent, first.measurement.error) == (0, "completed", None, 0.375)
        assert (first.plan.prefix, first.plan.rescale, dict(first.plan.params)) == (1.0, 1.0, {"n_estimators": 100})
        assert (second.status, second.reason) == ("timeout", "after 3 s")
        losses = store.array(0, "validation")
        assert losses is not None
        assert losses.tolist() == [0.5, 0.25]


def test_a_prefix_is_kept_with_its_parent(tmp_path: Path) -> None:
    prefix = trial(7, parent=3, plan=Plan("lightgbm", (("n_estimators", 100),), prefix=0.25, rescale=1.75))
    with Store.create(tmp_path / "run.db") as store:
        store.add_trial(prefix)
    with Store.open(tmp_path / "run.db", read_only=True) as store:
        assert store.trials() == [prefix]


def test_a_failed_write_leaves_nothing_half_done(tmp_path: Path) -> None:
    with Store.create(tmp_path / "run.db") as store:
        store.add_trial(trial(0))
        store.put_array(1, "validation", np.zeros(3))
        with pytest.raises(TypeError):
            store.set_meta("bad", object())
        assert store.array(1, "validation") is None
        store.add_trial(trial(2))
        assert [t.number for t in store.trials()] == [0, 2]


def test_a_full_disk_is_a_resource_error_and_the_store_goes_on_when_it_is_freed(tmp_path: Path) -> None:
    with Store.create(tmp_path / "run.db") as store:
        store.add_trial(trial(0))
        store._connection.execute("PRAGMA max_page_count = 12")

        def fill() -> None:
            for number in range(1, 100):
                store.put_array(number, "validation", np.zeros(2000))
                store.add_trial(trial(number))

        with pytest.raises(ResourceError, match="free the disk"):
            fill()
        store._connection.execute("PRAGMA max_page_count = 100000")
        kept = len(store.trials())
        store.add_trial(trial(kept))
        assert [t.number for t in store.trials()] == list(range(kept + 1))


def test_a_folder_that_cannot_be_written_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot make the folder"):
        Store.create(tmp_path / "file" / "run.db")


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "run.db")
    store.put_array(0, "x", np.ones(2))
    store.close()
    store.close()
    with Store.open(tmp_path / "run.db") as again:
        assert again.array(0, "x") is not None


def test_a_run_on_a_read_only_disk_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.db"
    with Store.create(path) as store:
        store.add_trial(trial(0))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Store.open(path, read_only=True) as store:
        assert len(store.trials()) == 1
    assert not list(tmp_path.glob("run.db-*"))
