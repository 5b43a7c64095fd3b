import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread
from scripts_of import load_script

from tmqc.harm.corruptions import KINDS


@pytest.fixture(scope="module")
def sheet():
    return load_script("contact_sheet")


@pytest.fixture
def figures(sheet, monkeypatch):
    """Collects every saved figure with its note; the files are still written."""
    seen, save = [], sheet.save_figure

    def keep(figure, path, note):
        seen.append((figure, note))
        save(figure, path, note)

    monkeypatch.setattr(sheet, "save_figure", keep)
    return seen


def write_scan(path):
    voxels = np.zeros((10, 12, 9), np.uint8)
    voxels[2:8, 2:10, 2:7] = np.random.default_rng(0).integers(100, 200, (6, 8, 5))
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(voxels.T), str(path))
    return path


def test_contact_sheet_has_a_row_per_kind_with_three_severities(sheet, figures, tmp_path, capsys):
    scan = write_scan(tmp_path / "scans" / "a.nii.gz")
    assert sheet.main(["--scan", str(scan), "--out", str(tmp_path / "sheet.png")]) == 0
    assert imread(tmp_path / "sheet.png").shape[0] > 100 * len(KINDS)
    assert "15 kinds at severities 2, 5, 9" in capsys.readouterr().out
    [(figure, note)] = figures
    assert note is None
    cells = np.array(figure.axes).reshape(len(KINDS), 4)
    assert [row[0].get_ylabel().replace(" ", "_") for row in cells] == list(KINDS)
    titles = {kind: [cell.get_title() for cell in row[1:]] for kind, row in zip(KINDS, cells, strict=True)}
    assert titles["blur"] == ["severity 2", "severity 5", "severity 9"]
    assert titles["mirrored"] == ["no severity", "", ""]
    pictures = [cell.images[0].get_array() for cell in cells[list(KINDS).index("blur")]]
    far = [np.nanstd(picture - pictures[0]) for picture in pictures]
    assert far == sorted(far) and far[0] == 0 < far[1]


@pytest.mark.parametrize("made", [True, False])
def test_contact_sheet_of_a_phantom_has_a_note(sheet, figures, tmp_path, made):
    scan = write_scan(tmp_path / "volumes" / "a.nii.gz")
    (tmp_path / "phantom.json").write_text("{}")
    source = ["--shape", "10", "12", "10"] if made else ["--scan", str(scan)]
    assert sheet.main([*source, "--out", str(tmp_path / "sheet.png")]) == 0
    assert figures[0][1] == "phantom scan: synthetic, no patient was scanned"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scan", "absent.nii.gz"], "absent.nii.gz"),
        (["--shape", "4", "4", "4"], "three sizes of 8 voxels or more"),
        (["--shape", "8", "8", "8", "--out", "/dev/null/x.png"], "/dev/null/x.png"),
    ],
)
def test_invalid_arguments_exit_with_2(sheet, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert sheet.main(arguments) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
