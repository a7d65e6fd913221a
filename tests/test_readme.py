"""What the README shows runs, in order, as a user would paste it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def execute(blocks):
    """What the blocks define, run one after the other."""
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    return names


def test_the_first_blocks_run_and_the_loop_learns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = execute(BLOCKS[:2])
    batches, trained = names["batches"], names["params"]
    start = {name: 0.0 * value for name, value in trained.items()}
    losses = [
        sum(
            names["worker_loss"](p, {k: v[m] for k, v in batches.items()})
            for m in range(5)
        )
        for p in (start, trained)
    ]
    assert losses[1] < 0.05 * losses[0]
    assert len(names["sent"].bits) == 5


def test_all_blocks_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 3
    assert execute(BLOCKS)["history"].num_rounds == 2000


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("path", re.findall(r"\]\((?!https?:)([^)]+)\)", README))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()
