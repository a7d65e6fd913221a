"""Runs that go on from their checkpoints, as if nothing had happened."""

import dataclasses
import errno
import functools
import pathlib
import shutil
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from inside import _checkpoint, _records, _run
from test_simulate import assert_same_course

import gdsec_jax
from gdsec_jax import broadcast, problems, simulate, worker

WORKERS, EVERY = 4, 20


@functools.cache
def problem():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6))
    return problems.ridge(x, x @ rng.standard_normal(6), WORKERS, dtype="float32")


@functools.cache
def optimizer(name="gdsec", scale=0.1):
    method = next(method for method in cases.METHODS if method.name == name)
    options = {"key": 5} if method.draws else {}
    return optax.chain(
        method.make(WORKERS, wire="rle", **options),
        optax.sgd(scale / problem().smoothness),
    )


def run(folder=None, num_rounds=50, chain=None, on=None, **options):
    """A run, with checkpoints if there is a folder."""
    if folder is not None:
        options = {"checkpoint": folder, "checkpoint_every": EVERY} | options
    return simulate(on or problem(), chain or optimizer(), num_rounds, **options)


class KilledError(Exception):
    pass


def killed_at(rounds):
    """A log that ends a run by force once so many rounds are computed."""

    def log(rows):
        if rows["round"][-1] >= rounds:
            raise KilledError

    return log


def steps(folder):
    return sorted(int(path.name[6:]) for path in folder.glob("round-*"))


def half(key, round):
    return jax.random.bernoulli(key, 0.5, (WORKERS,))


# The same to the last bit


@cases.methods(dear=True)
def test_a_run_that_goes_on_is_the_undisturbed_one(method, tmp_path):
    chain = optimizer(method.name)
    expected = run(chain=chain)
    assert_same_course(run(tmp_path / "undisturbed", chain=chain), expected)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", chain=chain, log=killed_at(45))
    assert steps(tmp_path / "killed") == [20, 40]
    assert_same_course(run(tmp_path / "killed", chain=chain), expected)


def draws_of_every_kind():
    """Minibatches, absences, and a broadcast with a memory and numbers of its own."""
    piece = worker.error_feedback(worker.top_k(2))
    chain = optax.chain(optimizer("gd"), broadcast(piece))
    on = problems.minibatch(problem(), 3)
    return {"on": on, "chain": chain, "participation": half, "key": 7}


def numbers_in_the_state():
    """Injected ones, whose types are weak, a typed random key, halves."""
    static = ("num_workers", "wire", "reduction", "state_dtype")
    make = optax.inject_hyperparams(gdsec_jax.gdsec, static_args=static)
    schedule = optax.cosine_decay_schedule(0.1 / problem().smoothness, 50)
    chain = optax.chain(
        make(WORKERS, xi=5.0, state_dtype="bfloat16"),
        optax.add_noise(0.1, 0.5, jax.random.key(3)),
        optax.inject_hyperparams(optax.sgd)(schedule),
    )
    return {"chain": chain}


def a_tree_of_halves():
    data = {"at": jnp.arange(8, dtype=jnp.bfloat16).reshape(WORKERS, 2)}
    start = {"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros((), jnp.bfloat16)}

    def loss(params, own):
        return 0.5 * jnp.sum((params["a"] - own["at"]) ** 2) + 0.5 * params["b"] ** 2

    on = problems.from_loss(loss, data, start)
    chain = optax.chain(gdsec_jax.gdsec(WORKERS, xi=0.1), optax.sgd(0.01))
    return {"on": on, "chain": chain}


@pytest.mark.parametrize(
    "kind",
    [
        draws_of_every_kind,
        pytest.param(numbers_in_the_state, marks=pytest.mark.slow),
        pytest.param(a_tree_of_halves, marks=pytest.mark.slow),
    ],
)
def test_whatever_a_run_carries_is_saved(kind, tmp_path, compiled):
    options = {"norms": True, "eval_every": 7} | kind()
    with jax.numpy_dtype_promotion("standard"):
        expected = run(**options)
        run(tmp_path, 40, **options)
        compiled()
        history = run(tmp_path, **options)
    assert "jit(_run_chunk)" not in compiled()  # the very same loop
    for name, norm in expected.norms.items():
        np.testing.assert_array_equal(history.norms[name], norm, err_msg=name)
    jax.tree.map(
        functools.partial(np.testing.assert_array_equal, strict=True),
        history.params,
        expected.params,
    )
    for name in ("objective_error", "bits", "participants", "broadcast_bits"):
        np.testing.assert_array_equal(getattr(history, name), getattr(expected, name))


@pytest.mark.parametrize("every", cases.slow_but([7], [1, 7, 50]))
def test_how_often_a_run_is_saved_changes_nothing(every, tmp_path):
    expected = run()
    with pytest.raises(KilledError):
        run(tmp_path, checkpoint_every=every, log=killed_at(30))
    assert_same_course(run(tmp_path, checkpoint_every=20), expected)


# Where a run ends


def test_a_finished_run_is_read(tmp_path, compiled):
    first = run(tmp_path)
    assert steps(tmp_path) == [20, 40, 50]
    before = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
    jax.clear_caches()
    compiled()
    again = run(tmp_path)
    assert "jit(_run_chunk)" not in compiled()
    assert_same_course(again, first)
    assert again.attributes["seconds"] >= first.attributes["seconds"] / 2
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("ends", [(10, 33), (47,)])
def test_a_run_goes_on_to_more_rounds(ends, tmp_path):
    for end in ends:  # whose last rounds are evaluated, then no longer
        assert run(tmp_path, end, eval_every=7).eval_rounds[-1] == end
    rows = []
    history = run(tmp_path, eval_every=7, log=rows.append)
    assert_same_course(history, run(eval_every=7))
    read = rows[0]["objective_error"]
    assert np.isnan(read).sum() == ends[-1] - ends[-1] // 7 > 0


def test_a_run_goes_on_though_its_last_error_was_good_enough(tmp_path):
    target = 1.01 * float(run(None, 38, eval_every=7).objective_error[-1])
    expected = run(eval_every=7, target_error=target)
    assert expected.num_rounds == 42
    early = run(tmp_path, 38, eval_every=7, target_error=target)
    assert early.outcome == "target"
    history = run(tmp_path, eval_every=7, target_error=target)
    assert_same_course(history, expected)
    assert_same_course(run(tmp_path, eval_every=7, target_error=target), expected)


def test_a_run_that_diverged_has_ended(tmp_path):
    chain = optimizer("gd", 20.0)
    for num_rounds in (50, 60):
        with pytest.warns(RuntimeWarning, match="diverged: stopped after"):
            history = run(tmp_path, num_rounds, chain=chain)
    with pytest.warns(RuntimeWarning, match="diverged: stopped after"):
        assert_same_course(history, run(chain=chain))


def test_fewer_rounds_than_there_are_is_refused(tmp_path):
    run(tmp_path, 40)
    message = f"num_rounds is 39, expected at least 40, .* checkpoint {tmp_path} has."
    with pytest.raises(ValueError, match=message):
        run(tmp_path, 39)


def test_the_log_is_told_of_every_round_once(tmp_path):
    with pytest.raises(KilledError):
        run(tmp_path, log=killed_at(45))
    rows = []
    history = run(tmp_path, log=rows.append, progress=False)
    columns = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
    assert columns["round"].tolist() == list(range(1, 51))
    np.testing.assert_array_equal(columns["bits"], history.bits.sum(axis=1))
    np.testing.assert_array_equal(columns["objective_error"], history.objective_error)
    assert rows[0]["round"].tolist() == list(range(1, 41))


def test_the_bar_begins_where_the_run_does(tmp_path, capsys):
    run(tmp_path)
    run(tmp_path, progress=True)
    assert "50/50" in capsys.readouterr().err


# Another run's folder


def shifted():
    return dataclasses.replace(
        problem(), worker_data=jax.tree.map(lambda x: x + 1, problem().worker_data)
    )


@pytest.mark.parametrize(
    "name, other",
    [
        ("data", lambda: {"on": shifted()}),
        ("method or options", lambda: {"chain": optimizer("gd")}),
        ("method or options", lambda: {"chain": optimizer(scale=0.2)}),
        ("key", lambda: {"key": 1}),
        ("method or options", lambda: {"participation": half, "key": 0}),
        ("eval_every, method or options", lambda: {"eval_every": 2}),
        ("method or options", lambda: {"norms": True}),
        ("target_error", lambda: {"target_error": 1.0}),
        ("divergence_factor", lambda: {"divergence_factor": 10.0}),
    ],
)
def test_the_folder_of_another_run_is_refused(name, other, tmp_path):
    run(tmp_path, 20)
    message = f"expected a new folder or that of this run: .* differs in {name}.$"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **other())
    assert steps(tmp_path) == [20]


@pytest.mark.parametrize(
    "arguments",
    [
        {"checkpoint": "somewhere"},
        {"checkpoint_every": 5},
        {"checkpoint": 3, "checkpoint_every": 5},
    ],
)
def test_both_a_folder_and_a_number_are_needed(arguments):
    with pytest.raises(ValueError, match=r"^checkpoint is .* and checkpoint_every .*"):
        run(**arguments)


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="expected None: a run of 2 processes is not"):
        _checkpoint.every_of(tmp_path, 5)


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_a_number_of_rounds_is_a_positive_int(every, tmp_path):
    message = f"checkpoint_every is {every}, expected an integer from 1"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, checkpoint_every=every)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    message = "expected a folder of its own: thesis.tex is in it"
    with pytest.raises(ValueError, match=message):
        run(tmp_path)
    with pytest.raises(OSError, match=r"thesis.tex is no folder that can be written"):
        run(tmp_path / "thesis.tex")


# Damage, without a loop: what is saved needs no meaning


def store(folder, **about):
    return _checkpoint.Store.at(folder, 20, {"problem": "none"} | about)


def saved(rounds, since):
    """A run, with the records of its rounds since some."""
    numbers = np.arange(since, rounds)
    sent: Any = {"bits": numbers[:, None]}
    broadcast: Any = numbers > 3
    state = {"memory": jnp.full((3, 4), rounds, jnp.bfloat16), "none": jnp.zeros((0,))}
    return _checkpoint.Saved(
        _run.Run(jnp.arange(5.0), state, jnp.int32(rounds), jnp.int32(0)),
        _records.Record(1.0 * numbers, sent, broadcast, {}, {}, ()),
        float(rounds),
    )


def keep_to(folder, rounds):
    for number in range(20, rounds + 1, 20):
        store(folder).save(saved(number, number - 20))


def newest(folder):
    return store(folder).newest(saved(0, 0), 1, 1000)


def assert_is(found, rounds):
    jax.tree.map(
        functools.partial(np.testing.assert_array_equal, strict=True),
        found,
        saved(rounds, 0),
    )


def deleted(path):
    path.unlink()


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [deleted, truncated, emptied, flipped])
def test_a_damaged_checkpoint_is_passed_over(damage, tmp_path):
    keep_to(tmp_path / "sound", 60)
    assert_is(newest(tmp_path / "sound"), 60)
    newest_step = tmp_path / "sound" / f"round-{60:010}"
    files = [p.relative_to(tmp_path) for p in newest_step.rglob("*") if p.is_file()]
    assert len(files) > 8
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "sound", folder)
        if (folder / file.relative_to("sound")).stat().st_size:
            damage(folder / file.relative_to("sound"))
        else:
            deleted(folder / file.relative_to("sound"))
        name = file.relative_to("sound").as_posix()
        message = rf"{folder}/round-0+60 is damaged, {name} is .* on from round 40.$"
        with pytest.warns(RuntimeWarning, match=message):
            found = newest(folder)
        assert_is(found, 40)
        assert steps(folder) == [20, 40]
    store(folder).save(saved(60, 40))
    assert_is(newest(folder), 60)


@pytest.mark.parametrize("name", ["records.npz", "manifest.json"])
def test_where_no_checkpoint_is_sound_the_run_starts_over(name, tmp_path):
    keep_to(tmp_path, 80)
    flipped(tmp_path / f"round-{20:010}" / name)
    with pytest.warns(RuntimeWarning, match="goes on from round 0") as caught:
        assert_is(newest(tmp_path), 0)
    assert [str(w.message).split(" is damaged")[0][-2:] for w in caught] == ["80", "60"]
    assert steps(tmp_path) == []


def test_a_missing_step_is_damage(tmp_path):
    keep_to(tmp_path, 60)
    shutil.rmtree(tmp_path / f"round-{40:010}")
    with pytest.warns(RuntimeWarning) as caught:
        assert_is(newest(tmp_path), 0)
    why = [str(w.message).split(" is damaged, ")[1] for w in caught]
    assert why[0].startswith("the rounds from 21 to 40 are missing: the run goes on")
    assert why[1].startswith("round-0000000020/state/_CHECKPOINT_METADATA is missing: ")


def test_a_save_that_was_broken_off_is_none(tmp_path):
    keep_to(tmp_path, 60)
    shutil.copytree(tmp_path / f"round-{60:010}", tmp_path / f".round-{80:010}")
    assert_is(newest(tmp_path), 60)
    store(tmp_path).save(saved(80, 60))
    assert_is(newest(tmp_path), 80)
    assert steps(tmp_path) == [20, 40, 60, 80]


def test_old_states_are_removed_and_records_written_once(tmp_path):
    keep_to(tmp_path, 100)
    folders = sorted(tmp_path.iterdir())
    assert [(path / "state").exists() for path in folders] == 3 * [False] + 2 * [True]
    for path in folders:
        with np.load(path / "records.npz") as file:
            assert len(file["arr_0"]) == 20


def test_a_damaged_manifest_is_not_taken_for_another_run(tmp_path):
    keep_to(tmp_path, 40)
    path = tmp_path / f"round-{40:010}" / "manifest.json"
    path.write_text(path.read_text().replace('"none"', '"some"'))
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert_is(newest(tmp_path), 20)
    with pytest.raises(ValueError, match="differs in problem"):
        store(tmp_path, problem="some")


def test_a_run_tells_its_caller_of_damage(tmp_path):
    expected = run(tmp_path)
    flipped(tmp_path / f"round-{50:010}" / "records.npz")
    with pytest.warns(RuntimeWarning, match="is damaged, .* round 40") as caught:
        assert_same_course(run(tmp_path), expected)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "name",
    ["round-1/thesis.tex", f"round-{20:010}/thesis.tex", f".round-{20:010}/thesis.tex"],
)
def test_folders_of_others_are_left_alone(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir()
    path.write_text("years")
    message = f"expected a folder of its own: {path.parent.name} is in it.$"
    with pytest.raises(ValueError, match=message):
        store(tmp_path)
    assert path.read_text() == "years"


@pytest.mark.parametrize("name", ["round-notes.txt", f"round-{20:010}"])
def test_a_file_that_is_called_as_a_step_is_refused(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"folder of its own: {name} is in it.$"):
        store(tmp_path)


def test_steps_that_nothing_says_whose_they_are_are_refused(tmp_path):
    state = tmp_path / f"round-{20:010}" / "state"
    state.mkdir(parents=True)
    with pytest.raises(ValueError, match="no manifest of the one there can be read.$"):
        store(tmp_path)
    assert state.exists()


@pytest.mark.parametrize("name", ["manifest.json", "records.npz"])
def test_what_cannot_be_read_now_is_not_taken_for_damage(name, tmp_path, monkeypatch):
    def failing(self, *arguments, **options):
        if self.name == name:
            raise OSError(errno.EIO, "Input/output error")
        return opened(self, *arguments, **options)

    keep_to(tmp_path, 40)
    opened = pathlib.Path.open
    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "open", failing)
        with pytest.raises(OSError, match="Input/output error"):
            newest(tmp_path)
    assert_is(newest(tmp_path), 40)


def test_what_is_damaged_is_set_aside(tmp_path):
    for aside in ("damaged-round-0000000040", "damaged-round-0000000040-2"):
        keep_to(tmp_path / "sound", 40)
        records = tmp_path / "sound" / f"round-{40:010}" / "records.npz"
        flipped(records)
        left = records.read_bytes()
        with pytest.warns(RuntimeWarning, match="goes on from round 20"):
            assert_is(newest(tmp_path / "sound"), 20)
        assert (tmp_path / "sound" / aside / "records.npz").read_bytes() == left
        shutil.rmtree(tmp_path / "sound" / f"round-{20:010}")


def test_hidden_files_are_no_matter(tmp_path):
    keep_to(tmp_path, 20)
    (tmp_path / ".DS_Store").touch()
    (tmp_path / f"round-{20:010}" / ".DS_Store").touch()
    assert_is(newest(tmp_path), 20)
    assert (tmp_path / ".DS_Store").exists()


def test_what_kills_left_is_removed(tmp_path):
    keep_to(tmp_path, 20)
    for name in ("records.npz", "state.orbax-checkpoint-tmp-7"):
        (tmp_path / f".round-{33:010}" / name).mkdir(parents=True)
    store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"round-{20:010}"]


@pytest.mark.parametrize("name", [f"round-{40:010}", f".round-{40:010}"])
def test_two_runs_in_one_folder_are_told(name, tmp_path):
    keep_to(tmp_path, 20)
    one = store(tmp_path)
    (tmp_path / name / "state").mkdir(parents=True)
    with pytest.raises(OSError, match="40 cannot be saved, expected one run at a time"):
        one.save(saved(40, 20))


def test_what_a_full_disk_says_is_passed_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_checkpoint.np, "savez", full)
    with pytest.raises(OSError, match="No space left on device"):
        store(tmp_path).save(saved(20, 0))


def test_limits_are_the_same_in_any_type(tmp_path):
    first = run(tmp_path, 20, target_error=1e-3, divergence_factor=100)
    limits = {"target_error": np.float32(1e-3), "divergence_factor": np.float32(100)}
    assert_same_course(run(tmp_path, 20, **limits), first)
