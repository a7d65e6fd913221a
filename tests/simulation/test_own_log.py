"""The log that goes on is replaced, whatever else is there stays."""

import pytest
from inside import own_log


def rows(*rounds):
    return {"round": list(rounds)}


@pytest.fixture
def kept(tmp_path):
    """The log of a run that was killed, and the folder of its checkpoints."""
    path, checkpoints = tmp_path / "log.csv", tmp_path / "checkpoints"
    with pytest.raises(KeyboardInterrupt), own_log(path, checkpoints) as log:
        log(rows(1, 2))
        raise KeyboardInterrupt
    return path, checkpoints


def test_a_log_is_written_anew(kept):
    path, checkpoints = kept
    for _ in range(2):
        with own_log(path, checkpoints) as log:
            log(rows(1, 2, 3))
        assert path.read_text() == "round\n1\n2\n3\n"
    assert sorted(x.name for x in path.parent.iterdir()) == ["checkpoints", "log.csv"]


def test_a_run_that_is_refused_keeps_its_log(kept):
    path, checkpoints = kept
    for _ in range(2):
        with pytest.raises(ValueError), own_log(path, checkpoints) as log:
            log(rows(1))
            raise ValueError
        assert path.read_text() == "round\n1\n2\n"
    test_a_log_is_written_anew(kept)


def test_the_log_of_another_run_stays(kept):
    path, checkpoints = kept
    path.rename(path.with_name("moved.csv"))
    path.write_text("round\n7\n")
    for _ in range(2):
        with pytest.raises(FileExistsError), own_log(path, checkpoints):
            pass
        assert path.read_text() == "round\n7\n"


@pytest.mark.slow  # TensorBoard is imported
def test_a_folder_of_another_run_gets_nothing(tmp_path):
    board, checkpoints = tmp_path / "board", tmp_path / "checkpoints"
    with own_log(board, tmp_path / "others") as log:
        log(rows(1) | {"bits": [3]})
    with pytest.raises(FileExistsError), own_log(board, checkpoints):
        pass
    for _ in range(2):
        with own_log(board, tmp_path / "others") as log:
            log(rows(1) | {"bits": [3]})
    assert len(list(board.iterdir())) == 3
