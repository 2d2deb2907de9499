"""Join the parts that a job array built into one dataset."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipeline.build_folder import building
from data_pipeline.errors import DataError
from data_pipeline.files import write_atomically
from data_pipeline.manifest import TOKENIZER_FILE, Manifest, load_manifest
from data_pipeline.shard_index import check_shard_file
from data_pipeline.write_shards import BUILD_FILE, HELD_OUT, TRAIN


def merge_parts(parts: Path | str, out: Path | str) -> dict[str, Manifest]:
    """Make the dataset `out` of all parts in the folder `parts`; the manifest of each split.

    Shards are hard links, or copies where the file system has none; the parts stay as they are. Raises `DataError` when
    a part is missing, parts were built by different commands, a shard is damaged in size, or `out` exists.
    """
    parts, out = Path(parts), Path(out)
    if out.exists():
        raise DataError(f"{out}: exists; choose another --out, or remove it")
    recipes = _recipes(parts)
    first = next(iter(recipes.values()))
    splits = (TRAIN, HELD_OUT) if first["held_out"] > 0 else (TRAIN,)
    try:
        with building(out, {"merge": str(parts.absolute())}) as folder:
            for split in splits:
                _merge_split([part / split for part in recipes], folder.dataset / split)
            counts = {name: sum(recipe[name] for recipe in recipes.values()) for name in first if _counts(name)}
            whole = {name: value for name, value in first.items() if name != "part"} | counts
            write_atomically(folder.dataset / BUILD_FILE, json.dumps(whole, indent=2).encode() + b"\n")
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); free space or choose another --out") from error
    return {split: load_manifest(out / split) for split in splits}


def _recipes(parts: Path) -> dict[Path, dict[str, Any]]:
    """What each part was built from, in order; `DataError` unless they are all parts of one build."""
    folders = sorted(parts.glob("part-*-of-*"))
    if not folders:
        raise DataError(f"{parts}: holds no parts; build them with `armd data build ... --part 1/8`, and so on")
    found: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        try:
            found[folder] = json.loads((folder / BUILD_FILE).read_text())
        except (OSError, ValueError):
            raise DataError(f"{folder}: is no finished part; build it again with the same command") from None
    first_folder, first = next(iter(found.items()))
    number = first["part"][1]
    for folder, recipe in found.items():
        different = [name for name in sorted({*first, *recipe}) if _shared(recipe, name) != _shared(first, name)]
        if different or recipe["part"][1] != number:
            what = ", ".join(different or ["number of parts"])
            raise DataError(f"{folder}: built with other {what} than {first_folder}; build it again, or remove it")
    there = {recipe["part"][0] for recipe in found.values()}
    if missing := [k for k in range(1, number + 1) if k not in there]:
        raise DataError(
            f"{parts}: part {missing[0]} of {number} is missing; build it with --part {missing[0]}/{number}"
        )
    return found


def _counts(name: str) -> bool:
    return name.endswith("_documents")


def _shared(recipe: dict[str, Any], name: str) -> Any:
    """What must agree between parts: not their number and counts, nor the hour at which a node copied its input."""
    if name == "part" or _counts(name):
        return None
    return [mark[:2] for mark in recipe[name]] if name == "inputs" else recipe.get(name)


def _merge_split(sources: list[Path], folder: Path) -> None:
    folder.mkdir()
    manifests = {source: load_manifest(source) for source in sources}
    first = manifests[sources[0]]
    for source, manifest in manifests.items():
        if (manifest.dtype, manifest.tokenizer_sha256) != (first.dtype, first.tokenizer_sha256):
            raise DataError(f"{source}: has other token types or another tokenizer than {sources[0]}; build it again")
        for shard in manifest.shards:
            check_shard_file(source, shard)
            for name in (shard.file, shard.index):
                _link(source / name, folder / name)
    shards = tuple(shard for manifest in manifests.values() for shard in manifest.shards)
    if not shards:
        raise DataError(f"no document with text went to the split {folder.name} of any part; check the --input files")
    shutil.copyfile(sources[0] / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    replace(
        first,
        documents=sum(shard.documents for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        sources=tuple(name for manifest in manifests.values() for name in manifest.sources),
        build={name: value for name, value in first.build.items() if name != "part"},
        shards=shards,
    ).save(folder)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
