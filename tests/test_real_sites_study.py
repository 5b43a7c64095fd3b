import numpy as np
import pandas as pd
import pytest
from scripts_of import load_script

script = load_script("real_sites_study")
judge, write_report = script.judge, script.write_report


def draw(seed, n_flipped, n_singles=0, n=60):
    """Scores of ten sites, each with its own shift; labels of the first sites are flipped."""
    rng, rows = np.random.default_rng(seed), []
    for site in range(10):
        truth = rng.permutation(np.arange(n) % 2)
        split = np.where(np.arange(n) < n // 4, "verification", "train")
        flipped = (split == "train") & (site < n_flipped)
        if site == 9:
            flipped[-n_singles or n :] = True
        logit = 2.5 * (truth - 0.5) + rng.normal(0, 1) + rng.normal(0, 1, n)
        label = np.where(flipped, 1 - truth, truth)
        data = {"site": f"s{site}", "split": split, "label": label, "flipped": flipped.astype(int), "logit": logit}
        rows.append(pd.DataFrame(data))
    return pd.concat(rows, ignore_index=True).rename_axis("subject").reset_index()


def test_judgment_does_not_depend_on_the_order_of_scans():
    table = draw(0, 2)
    once, again = (
        judge(one, rng=np.random.default_rng(0), q=0.1, draws=199)
        for one in (table, table.sample(frac=1, random_state=1))
    )
    assert once == again
    assert [site for site, flipped in once.flipped.items() if flipped] == ["s0", "s1"]
    assert all((test.p < 0.05) == once.flipped[site] for site, test in once.tests.items())


def test_report_has_a_row_per_rule_and_number_of_flipped_sites():
    tables = [draw(0, 0), draw(1, 0), draw(2, 2), draw(3, 0, n_singles=4)]
    text = write_report([judge(one, rng=np.random.default_rng(0), q=0.1, draws=999) for one in tables], q=0.1)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    [two] = [row for row in rows if row[:2] == ["2", "T1 and T2, q"]]
    assert two[2:4] == ["1", "0 (0.00 to 0.97)"]
    assert two[8].startswith("2/2 = 1.00")
    assert next(row for row in rows if row[0] == "T1 and T2, q")[3].startswith("20/20")  # as predicted
    assert [row[:2] for row in rows if row[0] == "4"] == [["4", "1"]]


def test_script_names_missing_columns(tmp_path, capsys):
    path = tmp_path / "scores.csv"
    draw(0, 1).drop(columns="logit").to_csv(path, index=False)
    assert script.main([str(path)]) == 2
    assert "columns logit are missing" in capsys.readouterr().err
    draw(0, 1).to_csv(path, index=False)
    assert script.main([str(path), "--draws", "199", "--out", str(tmp_path / "out.md")]) == 0
    assert "| 1 | T1 and T2, q | 1 |" in (tmp_path / "out.md").read_text()


@pytest.mark.parametrize("name", ["nothing.csv"])
def test_missing_table_exits_with_2(name, tmp_path, capsys):
    assert script.main([str(tmp_path / name)]) == 2
    assert "cannot be read" in capsys.readouterr().err
