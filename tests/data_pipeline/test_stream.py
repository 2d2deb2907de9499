"""The stream is the concatenation of all documents, and an epoch visits every window once."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.manifest import load_manifest
from data_pipeline.shard_index import walk_tar
from data_pipeline.stream import TokenStream


@pytest.fixture(scope="module")
def folder(corpus: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several shards of several members each, so that windows cross both borders."""
    from data_pipeline.write_shards import build_dataset

    out = tmp_path_factory.mktemp("stream") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_pipeline.shard_writer.MEMBER_BYTES", 1500)
        build_dataset([str(corpus)], model, out, shard_tokens=3000)
    manifest = load_manifest(out / "train")
    assert len(manifest.shards) > 3
    assert all(shard.members > 2 for shard in manifest.shards[:-1])
    return out / "train"


@pytest.fixture(scope="module")
def concatenation(folder: Path) -> np.ndarray:
    """All tokens, read without the stream."""
    parts = []
    for shard in load_manifest(folder).shards:
        data = (folder / shard.file).read_bytes()
        offsets, sizes = walk_tar(folder / shard.file)
        parts += [np.frombuffer(data[o : o + n], dtype="<u2") for o, n in zip(offsets, sizes, strict=True)]
    return np.concatenate(parts).astype(np.int64)


@pytest.mark.parametrize("length", [1, 7, 128, 1000, 5000])
def test_windows_are_the_concatenation(folder: Path, concatenation: np.ndarray, length: int) -> None:
    stream = TokenStream(folder, length, seed=0)
    assert stream.num_windows == len(concatenation) // length
    windows = stream.windows(np.arange(stream.num_windows))
    assert windows.dtype == np.int64
    assert windows.shape == (stream.num_windows, length)
    np.testing.assert_array_equal(windows.ravel(), concatenation[: stream.num_windows * length])
    shuffled = np.random.default_rng(0).permutation(stream.num_windows)[:40]
    np.testing.assert_array_equal(stream.windows(shuffled), windows[shuffled])
    np.testing.assert_array_equal(stream.window(stream.num_windows - 1), windows[-1])


def test_any_range_of_tokens(folder: Path, concatenation: np.ndarray) -> None:
    stream = TokenStream(folder, 8, seed=0)
    for start, stop in [(0, 1), (2990, 3100), (5, len(concatenation)), (len(concatenation) - 1, len(concatenation))]:
        np.testing.assert_array_equal(stream.tokens(start, stop), concatenation[start:stop])


def test_each_epoch_visits_every_window_once(folder: Path) -> None:
    stream = TokenStream(folder, 64, seed=3)
    size = stream.num_windows
    epochs = stream.sample_ids(np.arange(4 * size)).reshape(4, size)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(size), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_order_depends_on_the_seed_alone(folder: Path) -> None:
    indices = np.arange(50)
    first = TokenStream(folder, 64, seed=1).sample_ids(indices)
    np.testing.assert_array_equal(TokenStream(folder, 64, seed=1).sample_ids(indices), first)
    assert not np.array_equal(TokenStream(folder, 64, seed=2).sample_ids(indices), first)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_global_batches_do_not_depend_on_how_they_are_sliced(folder: Path, ranks: int) -> None:
    """Whatever the ranks and wherever a run resumed, step s holds the same samples: three epochs of them here."""
    stream = TokenStream(folder, 64, seed=9)
    batch = 24
    steps = 3 * stream.num_windows // batch
    whole = stream.samples(np.arange(steps * batch)).reshape(steps, batch, 64)
    for step in range(steps):
        fresh = [TokenStream(folder, 64, seed=9) if step == 2 else stream for _ in range(ranks)]
        slices = np.array_split(np.arange(step * batch, (step + 1) * batch), ranks)
        parts = [one.samples(indices) for one, indices in zip(fresh, slices, strict=True)]
        np.testing.assert_array_equal(np.concatenate(parts), whole[step])


def test_far_into_training_needs_no_replay(folder: Path) -> None:
    stream = TokenStream(folder, 64, seed=9)
    assert stream.samples(np.array([10**15, 10**15 + 1])).shape == (2, 64)


def test_pickled_before_and_after_reading(folder: Path) -> None:
    stream = TokenStream(folder, 64, seed=9)
    copy = pickle.loads(pickle.dumps(stream))
    expected = stream.samples(np.arange(30))
    np.testing.assert_array_equal(copy.samples(np.arange(30)), expected)
    carried = pickle.dumps(stream)
    assert len(carried) < 10_000
    np.testing.assert_array_equal(pickle.loads(carried).samples(np.arange(30)), expected)


def test_no_samples_and_windows_outside(folder: Path) -> None:
    stream = TokenStream(folder, 64, seed=0)
    assert stream.samples(np.array([], dtype=np.int64)).shape == (0, 64)
    for index in (-1, stream.num_windows):
        with pytest.raises(IndexError, match="range"):
            stream.window(index)


def test_sequence_longer_than_the_corpus(folder: Path, concatenation: np.ndarray) -> None:
    assert TokenStream(folder, len(concatenation), seed=0).num_windows == 1
    with pytest.raises(DataError, match=f"longer than the corpus of {len(concatenation)} tokens"):
        TokenStream(folder, len(concatenation) + 1, seed=0)
    with pytest.raises(DataError, match="use at least 1"):
        TokenStream(folder, 0, seed=0)
