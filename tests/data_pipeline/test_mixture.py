"""Datasets that take turns: each goes through its epochs whole, whatever the others do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numbered import numbered_dataset

from data_pipeline.errors import DataError
from data_pipeline.manifest import load_manifest
from data_pipeline.mixture import Mixture
from data_pipeline.stream import TokenStream

LENGTH = 8
WINDOWS = (40, 13, 7)
WEIGHTS = [{0: 5, 100: 2}, {0: 1}, {0: 0, 50: 3, 200: 1}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("mixture")
    return [
        numbered_dataset(base / f"part{number}", windows * LENGTH + 3, first=10_000 * number)
        for number, windows in enumerate(WINDOWS)
    ]


def mixture_of(folders: list[Path], seed: int = 4) -> Mixture:
    return Mixture([TokenStream(folder, LENGTH, seed) for folder in folders], WEIGHTS[: len(folders)])


def test_samples_are_the_places_they_say(folders: list[Path]) -> None:
    mixture = mixture_of(folders)
    samples, places = mixture.samples(np.arange(400)), mixture.places(np.arange(400))
    first = places.dataset * 10_000 + places.window * LENGTH
    np.testing.assert_array_equal(samples, first[:, None] + np.arange(LENGTH))


def test_every_dataset_goes_through_whole_epochs(folders: list[Path]) -> None:
    places = mixture_of(folders).places(np.arange(600))
    for number, windows in enumerate(WINDOWS):
        mine = places.dataset == number
        epochs, seen = places.epoch[mine], places.window[mine]
        assert (np.diff(epochs) >= 0).all()
        assert epochs[-1] >= 5
        for epoch in range(epochs[-1]):
            assert sorted(seen[epochs == epoch]) == list(range(windows))
        last = seen[epochs == epochs[-1]]
        assert len(set(last)) == len(last)


def test_a_dataset_s_own_order_is_its_stream(folders: list[Path]) -> None:
    places = mixture_of(folders).places(np.arange(300))
    for number, folder in enumerate(folders):
        mine = places.window[places.dataset == number]
        np.testing.assert_array_equal(mine, TokenStream(folder, LENGTH, 4).sample_ids(np.arange(len(mine))))


def test_one_dataset_is_its_stream(folders: list[Path]) -> None:
    mixture, stream = mixture_of(folders[:1]), TokenStream(folders[0], LENGTH, 4)
    indices = np.array([0, 99, 100, 10**12])
    np.testing.assert_array_equal(mixture.samples(indices), stream.samples(indices))
    assert mixture.manifest == stream.manifest


def test_what_was_consumed(folders: list[Path]) -> None:
    mixture = mixture_of(folders)
    for samples in (0, 60, 333):
        found = mixture.consumed(samples)
        expected = np.bincount(mixture.places(np.arange(samples)).dataset, minlength=3)
        assert [dataset.samples for dataset in found] == expected.tolist()
        assert [dataset.path for dataset in found] == list(map(str, folders))
        np.testing.assert_allclose([dataset.epochs for dataset in found], expected / WINDOWS)


def test_the_hash_covers_every_dataset(folders: list[Path], tmp_path: Path) -> None:
    other = numbered_dataset(tmp_path / "other", WINDOWS[2] * LENGTH + 3, first=20_001)
    mixtures = [mixture_of(parts) for parts in (folders, [*folders[:2], other], folders[:2], [*folders[1::-1]])]
    assert len({mixture.manifest.hash() for mixture in mixtures}) == 4
    assert mixture_of(folders, seed=9).manifest.hash() == mixtures[0].manifest.hash()
    assert mixtures[0].manifest.tokens == sum(load_manifest(folder).tokens for folder in folders)


def test_datasets_of_two_tokenizers(folders: list[Path], tmp_path: Path) -> None:
    other = numbered_dataset(tmp_path / "other", 100)
    replace(load_manifest(other), tokenizer_sha256="1" * 64).save(other)
    with pytest.raises(DataError, match=r"other: made by another tokenizer \(131072 ids\) than .*part0 .*build both"):
        mixture_of([folders[0], other])
