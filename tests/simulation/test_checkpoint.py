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
from inside import _checkpoint, _records, _run, _whole
from test_simulate import assert_same_course

import gdsec_jax
from gdsec_jax import Uplink, broadcast, problems, simulate, worker

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
    every = options.pop("every", EVERY)
    if folder is not None:
        options["checkpoint"] = gdsec_jax.Checkpoints(folder, every)
    return simulate(on or problem(), chain or optimizer(), num_rounds, **options)


class KilledError(Exception):
    pass


def killed_at(rounds):
    """A log that ends a run by force once so many rounds are computed."""

    def log(rows):
        if rows["round"][-1] >= rounds:
            raise KilledError

    return log


def saves(folder):
    """The rounds after which a run was saved."""
    return sorted(int(path.name[:10]) for path in folder.glob("rounds/[0-9]*"))


def half(key, round):
    return jax.random.bernoulli(key, 0.5, (WORKERS,))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and the history of a finished run; the folder is to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(folder)


@pytest.fixture
def folder(finished, tmp_path):
    """A finished run's folder."""
    return shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)


# The same to the last bit


@cases.methods(dear=True)
def test_a_run_that_goes_on_is_the_undisturbed_one(method, tmp_path):
    chain = optimizer(method.name)
    expected = run(chain=chain)
    assert_same_course(run(tmp_path / "undisturbed", chain=chain), expected)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", chain=chain, log=killed_at(45))
    assert saves(tmp_path / "killed") == [20, 40]
    assert_same_course(run(tmp_path / "killed", chain=chain), expected)


def draws_of_every_kind():
    """Minibatches, absences, and a broadcast with a memory and numbers of its own."""
    piece = worker.error_feedback(worker.top_k(2))
    chain = optax.chain(optimizer("gd"), broadcast(piece))
    on = problems.minibatch(problem(), 3)
    return {"on": on, "chain": chain, "uplink": Uplink(half), "key": 7}


def numbers_of_every_kind():
    """Halves, injected numbers whose types are weak, a typed random key."""
    data = {"at": jnp.arange(8, dtype=jnp.bfloat16).reshape(WORKERS, 2)}
    start = {"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros((), jnp.bfloat16)}

    def loss(params, own):
        return 0.5 * jnp.sum((params["a"] - own["at"]) ** 2) + 0.5 * params["b"] ** 2

    static = ("num_workers", "wire", "reduction", "state_dtype")
    make = optax.inject_hyperparams(gdsec_jax.gdsec, static_args=static)
    chain = optax.chain(
        make(WORKERS, xi=0.1, state_dtype="bfloat16"),
        optax.add_noise(0.1, 0.5, jax.random.key(3)),
        optax.inject_hyperparams(optax.sgd)(optax.cosine_decay_schedule(0.01, 50)),
    )
    return {"on": problems.from_loss(loss, data, start), "chain": chain}


@pytest.mark.parametrize(
    "kind",
    cases.slow_but([draws_of_every_kind], [draws_of_every_kind, numbers_of_every_kind]),
)
def test_whatever_a_run_carries_is_saved(kind, tmp_path, compiled):
    options = {"observe": gdsec_jax.norms, "eval_every": 7} | kind()
    with jax.numpy_dtype_promotion("standard"):
        expected = run(**options)
        run(tmp_path, 40, **options)
        compiled()
        history = run(tmp_path, **options)
    assert "jit(chunk)" not in compiled()  # the very same loop
    assert expected.observed
    same = functools.partial(np.testing.assert_array_equal, strict=True)
    for name in ("objective_error", "bits", "participants", "broadcast_bits"):
        same(getattr(history, name), getattr(expected, name))
    for name in ("observed", "params"):
        jax.tree.map(same, getattr(history, name), getattr(expected, name))


@pytest.mark.parametrize("every", cases.slow_but([7], [1, 7, 50]))
def test_how_often_a_run_is_saved_changes_nothing(every, tmp_path, finished):
    with pytest.raises(KilledError):
        run(tmp_path, every=every, log=killed_at(30))
    rows = []
    history = run(tmp_path, every=20, log=rows.append, progress=False)
    assert_same_course(history, finished[1])
    # The log is told of every round once, of those that are read too.
    columns = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
    assert columns["round"].tolist() == list(range(1, 51))
    np.testing.assert_array_equal(columns["bits"], history.bits.sum(axis=1))
    np.testing.assert_array_equal(columns["objective_error"], history.objective_error)


# Where a run ends


def test_a_finished_run_is_read(folder, finished, compiled, capsys):
    assert saves(folder) == [20, 40, 50]
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*"))
    compiled()
    again = run(folder, chain=optimizer.__wrapped__(), progress=True)
    assert "jit(chunk)" not in compiled()
    shown = capsys.readouterr().err  # the bar begins where the run does
    assert "from round 50" in shown and "50/50" in shown
    assert_same_course(again, finished[1])
    seconds = finished[1].attributes["seconds"]
    assert again.attributes["seconds"] >= seconds / 2
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*")) == before


def test_a_run_goes_on_to_more_rounds(tmp_path):
    expected = run(eval_every=7)
    for ends in ((10, 33), (47,)):
        folder = tmp_path / f"{ends}"
        for end in ends:  # whose last rounds are evaluated, then no longer
            assert run(folder, end, eval_every=7).eval_rounds[-1] == end
        rows = []
        history = run(folder, eval_every=7, log=rows.append)
        assert_same_course(history, expected)
        read = rows[0]["objective_error"]
        assert np.isnan(read).sum() == ends[-1] - ends[-1] // 7 > 0


def test_a_run_goes_on_though_its_last_error_was_good_enough(tmp_path):
    target = 1.01 * float(run(None, 38, eval_every=7).objective_error[-1])
    options = {"eval_every": 7, "stop": gdsec_jax.Stop(target)}
    expected = run(**options)
    assert expected.num_rounds == 42
    assert run(tmp_path, 38, **options).outcome == "target"
    for _ in range(2):
        assert_same_course(run(tmp_path, **options), expected)


def test_a_run_that_diverged_has_ended(tmp_path):
    chain = optimizer("gd", 20.0)
    for num_rounds in (50, 60):
        with pytest.warns(RuntimeWarning, match="diverged: stopped after"):
            history = run(tmp_path, num_rounds, chain=chain)
    with pytest.warns(RuntimeWarning, match="diverged: stopped after"):
        assert_same_course(history, run(chain=chain))


# Another run's folder


def test_the_folder_of_another_run_is_refused(folder):
    data = jax.tree.map(lambda x: x + 1, problem().worker_data)
    for name, other in [
        ("data", {"on": dataclasses.replace(problem(), worker_data=data)}),
        ("method or options", {"chain": optimizer("gd")}),
        ("method or options", {"chain": optimizer(scale=0.2)}),
        ("key", {"key": 1}),
        ("method or options", {"uplink": Uplink(half), "key": 0}),
        ("eval_every, method or options", {"eval_every": 2}),
        ("method or options", {"observe": gdsec_jax.norms}),
        ("target_error", {"stop": gdsec_jax.Stop(1.0)}),
        ("divergence_factor", {"stop": gdsec_jax.Stop(divergence_factor=10.0)}),
    ]:
        message = f"expected a new folder or that of this run: .* differs in {name}.$"
        with pytest.raises(ValueError, match=message):
            run(folder, **other)
    message = f"num_rounds is 49, expected at least 50, .* checkpoint {folder} has."
    with pytest.raises(ValueError, match=message):
        run(folder, 49)
    assert saves(folder) == [20, 40, 50]


def test_another_jax_goes_on_with_the_same_program_alone(tmp_path, monkeypatch):
    run(tmp_path, 40)
    monkeypatch.setattr(jax, "__version__", "9.9.9")
    assert_same_course(run(tmp_path, 50), run())
    message = "differs in jax, method or options.$"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, chain=optimizer("gd"))


def test_checkpoints_are_a_path_and_a_number(tmp_path):
    for arguments, message in {
        (3, 5): "path is 3, expected the path of a folder.",
        ("a", 0): "every is 0, expected an integer from 1 ",
        ("a", 2.5): "every is 2.5, expected an integer from 1 ",
    }.items():
        with pytest.raises(ValueError, match=message):
            gdsec_jax.Checkpoints(*arguments)
    # And for a release in their old spelling.
    old: dict[str, Any] = {"checkpoint": tmp_path, "checkpoint_every": EVERY}
    with pytest.warns(DeprecationWarning, match="Checkpoints") as caught:
        simulate(problem(), optimizer(), 20, **old)
    assert caught[0].filename == __file__
    assert saves(tmp_path) == [20]


# Damage, without a loop: what is saved needs no meaning


def store(folder, every=EVERY, **about):
    about = {"problem": "none"} | about
    return _checkpoint.Store.at(gdsec_jax.Checkpoints(folder, every), about)


def saved(rounds, since):
    """A run, with the records of its rounds since some."""
    numbers = np.arange(since, rounds)
    sent: Any = {"bits": numbers[:, None]}
    broadcast: Any = numbers > 3
    state = {"memory": jnp.full((3, 4), rounds, jnp.bfloat16), "none": jnp.zeros((0,))}
    return _checkpoint.Saved(
        _run.Run(jnp.arange(5.0), state, jnp.int32(rounds), jnp.int32(0)),
        _records.Record(
            1.0 * numbers, sent, broadcast, {}, {}, (), np.ones(numbers.shape, np.int32)
        ),
        float(rounds),
    )


def keep_to(folder, rounds):
    kept = store(folder)
    for number in range(EVERY, rounds + 1, EVERY):
        kept.save(saved(number, number - EVERY))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A function that makes a folder with saves until some round, by copying."""
    made = {}

    def copy(folder, rounds=60):
        if rounds not in made:
            made[rounds] = tmp_path_factory.mktemp("sound")
            keep_to(made[rounds], rounds)
        return shutil.copytree(made[rounds], folder, dirs_exist_ok=True)

    return copy


def newest(folder):
    return store(folder).newest(saved(0, 0), 1, 1000)


def assert_is(found, rounds):
    jax.tree.map(
        functools.partial(np.testing.assert_array_equal, strict=True),
        found,
        saved(rounds, 0),
    )


def records(folder, number):
    [path] = folder.glob(f"rounds/{number:010}-*.npz")
    return path


def emptied(path):
    path.write_bytes(b"")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80
    path.write_bytes(data)


def test_that_a_run_goes_on_is_told_once_it_does(finished, tmp_path):
    told = []

    def again(num_rounds, folder=tmp_path / "copy", chain=None):
        kept = gdsec_jax.Checkpoints(folder, EVERY, on_resume=told.append)
        return simulate(problem(), chain or optimizer(), num_rounds, checkpoint=kept)

    shutil.copytree(finished[0], tmp_path / "copy")
    with pytest.raises(ValueError, match="num_rounds is 40, expected at least 50"):
        again(40)
    with pytest.raises(ValueError, match="the one there differs in"):
        again(70, chain=optimizer(scale=0.2))
    again(70, tmp_path / "new")
    assert told == []
    again(70)
    assert told == [50]
    with pytest.raises(ValueError, match="on_resume is 3, expected a function"):
        gdsec_jax.Checkpoints(tmp_path, 3, on_resume=3)  # pyright: ignore


def test_a_damaged_save_is_passed_over(sound, tmp_path):
    assert_is(newest(sound(tmp_path / "sound")), 60)
    states = tmp_path / "sound" / "states"
    assert sorted(path.name for path in states.iterdir()) == ["40", "60"]
    for number in (20, 40, 60):  # each round is written once
        with np.load(records(states.parent, number)) as file:
            assert len(file["arr_0"]) == 20
    state = states / "60"
    files = [path.relative_to(state) for path in state.rglob("*") if path.is_file()]
    assert len(files) > 8
    damaged = [("records", damage) for damage in (truncated, emptied, flipped)]
    for number, name in enumerate(files):  # by each kind of damage in turn
        damage = (flipped, truncated, emptied, pathlib.Path.unlink)[number % 4]
        empty = not (state / name).stat().st_size
        damaged.append((name, pathlib.Path.unlink if empty else damage))
    for number, (name, damage) in enumerate(damaged):
        folder = sound(tmp_path / str(number))
        at = folder / "states" / "60" / name
        damage(records(folder, 60) if name == "records" else at)
        what = "rounds/0000000060" if name == "records" else f"states/60/{name}"
        message = f"60 in {folder} is damaged, {what}.* is .* goes on from round 40.$"
        with pytest.warns(RuntimeWarning, match=message):
            found = newest(folder)
        assert_is(found, 40)
        assert saves(folder) == [20, 40]
    store(folder).save(saved(60, 40))
    assert_is(newest(folder), 60)


@pytest.mark.parametrize("damage", [flipped, pathlib.Path.unlink])
def test_where_no_save_is_sound_the_run_starts_over(damage, sound, tmp_path):
    damage(records(sound(tmp_path, 80), 20))
    with pytest.warns(RuntimeWarning, match="goes on from round 0") as caught:
        assert_is(newest(tmp_path), 0)
    said = [str(warning.message).split(" is damaged, ") for warning in caught]
    assert [one.split()[4] for one, _ in said] == ["80", "60"]
    missing = said[0][1].startswith("the rounds from 1 to 20 are missing: the run")
    assert missing == (damage is not flipped)
    assert saves(tmp_path) == []


def test_a_save_that_was_broken_off_is_none(sound, tmp_path):
    """Killed while orbax wrote, after it, while the records were written, or while an
    old state was removed."""
    sound(tmp_path)
    states, rounds = tmp_path / "states", tmp_path / "rounds"
    (states / "20" / "default").mkdir(parents=True)
    shutil.copytree(states / "60", states / "80")
    shutil.copytree(states / "60", states / "90.orbax-checkpoint-tmp")
    shutil.copy(records(tmp_path, 60), rounds / ".0000000080-.x.npz")
    hidden = [tmp_path / name / ".DS_Store" for name in ("", "rounds", "states/60")]
    for path in hidden:
        path.touch()
    assert_is(newest(tmp_path), 60)
    assert all(path.exists() for path in hidden)  # somebody else's
    store(tmp_path).save(saved(80, 60))
    assert_is(newest(tmp_path), 80)
    assert sorted(path.name for path in states.iterdir()) == ["60", "80"]
    assert len(list(rounds.iterdir())) == 5


def test_all_is_on_the_disk_before_a_save_counts(tmp_path, monkeypatch):
    synced, kept = [], store(tmp_path)

    def sync(*paths):
        synced.extend(paths)
        if paths[0].suffix == ".npz":  # the last file, before it has its name
            assert not saves(tmp_path)
            assert {tmp_path, *tmp_path.glob("states/**/*")} <= {*synced}

    monkeypatch.setattr(_whole, "sync", sync)
    kept.save(saved(20, 0))
    assert synced[-2].suffix == ".npz"
    assert synced[-1] == tmp_path / "rounds"
    assert saves(tmp_path) == [20]


def test_damage_is_not_taken_for_another_run(sound, tmp_path):
    path = records(sound(tmp_path, 40), 40)
    none, some = (word.encode("utf-32-le") for word in ("none", "some"))
    path.write_bytes(path.read_bytes().replace(none, some))
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert_is(newest(tmp_path), 20)
    with pytest.raises(ValueError, match="differs in problem"):
        store(tmp_path, problem="some")


FOREIGN = """
    a.tex thesis/a.tex rounds/a.npz rounds/0000000020-a.npz states/thesis
    states/a states/20/a states/20.orbax-checkpoint-tmp/a states/20
"""


@pytest.mark.parametrize("name", FOREIGN.split())
def test_what_others_left_is_left_alone(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("years")
    with pytest.raises(ValueError, match="expected a folder of its own: .* is in it.$"):
        store(tmp_path)
    with pytest.raises(OSError, match=r"is no folder that can be written"):
        store(path)
    assert path.read_text() == "years"


def test_saves_that_nothing_says_whose_they_are_are_refused(sound, tmp_path):
    flipped(records(sound(tmp_path, 20), 20))
    with pytest.raises(ValueError, match="nothing that can be read says whose the one"):
        store(tmp_path)
    assert (tmp_path / "states" / "20").exists()


@pytest.mark.parametrize("name", ["_METADATA", "0000000040-"])
def test_what_cannot_be_read_now_is_not_taken_for_damage(
    name, sound, tmp_path, monkeypatch
):
    def failing(self, *arguments, **options):
        if self.name.startswith(name):
            raise OSError(errno.EIO, "Input/output error")
        return opened(self, *arguments, **options)

    sound(tmp_path, 40)
    opened = pathlib.Path.open
    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "open", failing)
        with pytest.raises(OSError, match="Input/output error"):
            newest(tmp_path)
    assert_is(newest(tmp_path), 40)


def test_what_is_damaged_is_set_aside_and_its_caller_is_told(folder, finished):
    for aside in ("damaged-50", "damaged-50-2"):
        path = records(folder, 50)
        flipped(path)
        left = path.read_bytes()
        with pytest.warns(RuntimeWarning, match="is damaged, .* round 40") as caught:
            assert_same_course(run(folder), finished[1])
        assert caught[0].filename == __file__
        assert (folder / aside / path.name).read_bytes() == left
        assert (folder / aside / "50" / "default").is_dir()


@pytest.mark.parametrize("name", ["40", "40.orbax-checkpoint-tmp"])
def test_two_runs_in_one_folder_are_told(name, sound, tmp_path):
    one = store(sound(tmp_path, 20))
    (tmp_path / "states" / name).mkdir()
    with pytest.raises(OSError, match="40 cannot be saved, expected one run at a time"):
        one.save(saved(40, 20))


def test_a_full_disk_and_several_processes_are_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_whole, "sync", full)
    with pytest.raises(OSError, match="No space left on device"):
        store(tmp_path).save(saved(20, 0))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="expected None: a run of 2 processes is not"):
        store(tmp_path)


def test_limits_are_the_same_in_any_type(tmp_path):
    first = run(tmp_path, 20, stop=gdsec_jax.Stop(1e-3, 100))
    stop = gdsec_jax.Stop(np.float32(1e-3), np.float32(100))
    assert_same_course(run(tmp_path, 20, stop=stop), first)
