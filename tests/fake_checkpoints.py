"""Complete checkpoints of a few bytes, for tests of what happens to folders."""

from pathlib import Path

from armd_dist.checkpoint.folder import TrainingState, finish, partial_folder, step_folder


def fake_checkpoint(run_dir: Path, step: int) -> Path:
    """Two files beside state.json and COMPLETE; no tensors."""
    partial, final = partial_folder(run_dir, step), step_folder(run_dir, step)
    (partial / "state").mkdir(parents=True)
    (partial / "state" / "__0_0.distcp").write_bytes(bytes(range(200)))
    (partial / "run.yaml").write_text("run: {}\n")
    topology = {"world_size": 4, "tensor": 2, "pipeline": 1, "data": 2}
    finish(partial, final, TrainingState(step, 8 * step, 0, "left_to_right", 1, "m", "t", topology, {}), {})
    return final
