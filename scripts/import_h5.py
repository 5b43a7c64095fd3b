"""Import a model saved by the published scripts, `encoder_*.h5` with its `classifier_PD_*.h5`, as a starting point.

Example:
    python scripts/import_h5.py encoder_distributed_BS5_09.h5 classifier_PD_distributed_BS5_09.h5
    tmqc experiment=paper_qc_centers_noise init.from=outputs/imported/encoder_distributed_BS5_09 ...

It writes a directory with one checkpoint, for `init.from` and `inference.run`. The published scripts keep two Adam
optimizers in these files, one per part: their moments and step count are merged into the one Adam of tmqc. If they are
missing or do not fit, the optimizer starts afresh, and one line reports it. No code in the files is executed.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from tmqc.errors import ModelFileError, TmqcError
from tmqc.runs.checkpoint import Checkpoint, save_checkpoint
from tmqc.runs.directory import CONFIG, check_free, write_text
from tmqc.settings.schema import CohortConfig, Config, PipelineConfig, RunConfig

if TYPE_CHECKING:
    from tmqc.model.h5 import SavedModel


def main(arguments: Sequence[str] | None = None) -> int:
    """Return exit code 0; 2 with one line per fault if the model cannot be imported."""
    given = _parse(arguments)
    from tmqc.model.backend import import_keras  # local import, as it takes seconds: --help must be fast

    import_keras()
    from tmqc.model.h5 import read_pair, turn_axes

    try:
        cycle = given.cycle if given.cycle is not None else _cycle_of([given.encoder, given.classifier])
        saved = read_pair(given.encoder, given.classifier, seed=given.seed)
        if given.axes == "zyx":
            saved = turn_axes(saved)
        directory = given.output or Path("outputs", "imported", given.encoder.stem)
        facts = {"imported": {path.name: _digest(path) for path in (given.encoder, given.classifier)}}
        path = _write_run(saved, directory, cycle=cycle, facts=facts)
    except TmqcError as error:
        print(f"import_h5: {error}", file=sys.stderr)
        return error.code
    if saved.fresh is None:
        print(f"optimizer: moments and step count {saved.n_steps} imported")
    else:
        print(f"optimizer: starts afresh ({saved.fresh})")
    shape, settings = ",".join(map(str, saved.shape)), saved.settings
    filters = ",".join(map(str, settings.filters))
    print(f"settings: cohort.shape=[{shape}] model.filters=[{filters}] model.dropout={settings.dropout:g}", end=" ")
    print(f"model.batchnorm_momentum={settings.batchnorm_momentum:g} ", end="")
    print(f"model.batchnorm_epsilon={settings.batchnorm_epsilon:g}")
    print(f"start:    init.from={directory} schedule.start={cycle + 1}")
    print(path)
    return 0


def _write_run(saved: SavedModel, directory: Path, *, cycle: int, facts: Mapping[str, Any]) -> Path:
    """Write a run directory with one checkpoint, and a `config.yaml` that describes the model.

    Args:
        saved: the model, with axes in x, y, z order.
        directory: the run directory; must not hold a run.
        cycle: the last cycle on which the model was trained.
        facts: JSON values stored in the checkpoint.

    Returns:
        Path of the checkpoint.

    Raises:
        RunError: the directory holds a run.
        StoppedError: the checkpoint cannot be written.
    """
    check_free(directory, overwrite=False)
    config = Config(
        pipeline=PipelineConfig(name="imported", start=0),  # distinguishes it from training runs
        cohort=CohortConfig(shape=list(saved.shape)),
        model=saved.settings,
        run=RunConfig(name=directory.name, outputs=str(directory.parent.absolute())),
    )
    path = save_checkpoint(directory, Checkpoint(cycle, saved.state, facts))
    write_text(directory / CONFIG, OmegaConf.to_yaml(OmegaConf.structured(config)))
    return path


def _cycle_of(paths: Sequence[Path]) -> int:
    """Return the cycle in the files' names, as in `encoder_distributed_BS5_09.h5`.

    Raises:
        ModelFileError: a name has no cycle, or the cycles differ.
    """
    found = {path.name: re.search(r"_(\d+)$", path.stem) for path in paths}
    if none := [name for name, match in found.items() if match is None]:
        raise ModelFileError([f"{name}: no cycle in its name; give it with --cycle" for name in none])
    cycles = {name: int(match.group(1)) for name, match in found.items() if match}
    if len(set(cycles.values())) > 1:
        raise ModelFileError(f"the files are of different cycles: {cycles}; if they belong together, give --cycle")
    return next(iter(cycles.values()))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path, help="encoder_*.h5")
    parser.add_argument("classifier", type=Path, help="classifier_PD_*.h5")
    parser.add_argument("--output", type=Path, help="directory; default: outputs/imported/<name of the encoder's file>")
    parser.add_argument("--cycle", type=int, help="last finished cycle of the model; default: from the files' names")
    axes = "order of the axes in training; default: %(default)s, as in the published scripts"
    parser.add_argument("--axes", choices=("zyx", "xyz"), default="zyx", help=axes)
    parser.add_argument("--seed", type=int, default=0, help="seed of the dropout generator; default: %(default)s")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
