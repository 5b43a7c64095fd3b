"""Settings of federations and sites, start-up kits, and their error messages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from scripts_of import load_script
from test_config import OWN_DATA, composed, faults

from tmqc.errors import InputError
from tmqc.federation.site_settings import SiteSettings, Tokens, read_site_settings, write_site_settings
from tmqc.settings.validate import validate

DATA = OWN_DATA[:2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["federation=local", "pipeline=inference"], "pipeline=inference scores local scans only"),
        (
            ["federation=local", "federation.patience_s=-1"],
            "federation.patience_s=-1.0: must be null, or a number from 0",
        ),
        (["federation=local", "federation.on_fault=retry"], "must be one of wait, skip, stop"),
        (["federation=local", "federation.min_cell=0"], "federation.min_cell=0: must be a number from 1"),
        (["federation=local", "federation.timeout_s=nan"], "federation.timeout_s=nan: must be a number"),
        (["federation=local", "qc=evidence"], "federation.share_scores=true, or use a gate of steps"),
        (["federation=local", "qc.control=foo"], "qc.control=foo: must be one of steps, screen, evidence"),
        (["federation=local", "qc=evidence", "federation.on_fault=skip"], "qc.control=evidence compares all scans"),
        (["federation=local", "qc=screen"], "federation.share_margins=true, or use another gate"),
        (["federation=local", "schedule.ema=0.9"], "schedule.ema=0.9: sites keep no average of the weights"),
        (["federation=local", "qc.calibrate=true"], "federation.share_margins=true, or qc.calibrate=false"),
        (["federation=local", "qc=screen", "federation.on_fault=skip"], "use federation.on_fault=wait or stop"),
        (["federation=local", "qc.early_stop=true"], "set qc.early_stop=off with federation=local"),
        (
            ["federation=nvflare", "federation.sites=[a,b]", "federation.admin_kit=kit", "qc.early_stop=true"],
            "set qc.early_stop=off with federation=nvflare",
        ),
        (["federation=local", "qc=screen"], "set qc.screen.exact=true with federation=local"),
        (["federation=local", "qc=screen"], "qc.screen.image_z=6: comparing images needs sums of the sites' scans"),
        (["federation=local", "run.verify_workers=2"], "each site has one model"),
        (["federation=nvflare"], "federation.sites is not set: give the names of the FLARE clients"),
        (["federation=nvflare"], "federation.admin_kit is not set"),
        (
            ["federation=nvflare", "federation.admin_kit=kit"],
            "federation.admin_kit=kit: not an administrator's start-up kit",
        ),
        (["federation=nvflare", "federation.sites=[a,b,a]"], "federation.sites has a more than once"),
        (["federation=nvflare", "harmful=centers"], "cannot be corrupted from here"),
        (["federation=nvflare", "cohort.truth_csv=t.csv"], "cohort.truth_csv=t.csv: real sites do not send the ids"),
    ],
)
def test_settings_incompatible_with_a_federation_are_refused(overrides, message):
    assert any(message in fault for fault in faults(*DATA, "init.from=x", *overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["qc.calibrate=true", "federation.share_margins=true"],
        ["qc=evidence", "federation.share_scores=true"],
        ["pipeline=dirty", "qc.early_stop=true", "federation.on_fault=skip"],  # without control
    ],
)
def test_settings_compatible_with_a_federation(overrides):
    validate(composed(*DATA, "init.from=x", "federation=local", *overrides))


def test_nvflare_federation_needs_no_local_tables(tmp_path):
    pytest.importorskip("nvflare")
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "fed_admin.json").touch()
    validate(
        composed("federation=nvflare", "federation.sites=[a,b]", f"federation.admin_kit={tmp_path}", "init.from=x")
    )


def test_site_settings_round_trip(tmp_path):
    settings = SiteSettings(tmp_path / "train.csv", None, tmp_path / "tokens.csv", 7, True)
    write_site_settings(tmp_path / "site.yaml", settings)
    assert read_site_settings(tmp_path / "site.yaml") == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train_csv: a.csv\nmin_cel: 3", "min_cel: there is no such setting"),
        ("train_csv: a.csv\nmin_cell: 0", "min_cell=0: must be a whole number from 1"),
        ("train_csv: a.csv\nshare_margins: sometimes", "must be true or false"),
        ("min_cell: 3", "neither train_csv nor verification_csv is set"),
        ("train_csv: 5", "train_csv=5: must be the path of a CSV"),
        ("- a", "must hold settings"),
        ("a: [", "cannot be read as the site's settings"),
    ],
)
def test_invalid_site_settings_are_refused(tmp_path, text, message):
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(InputError, match="this site cannot take part") as caught:
        read_site_settings(tmp_path / "site.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["Token,Subject\n00,a\n00,b\n", "Token\n00\n", "Token,Subject\nxy,a\n"])
def test_damaged_table_of_tokens_is_not_overwritten(tmp_path, text):
    (tmp_path / "tokens.csv").write_text(text)
    with pytest.raises(InputError, match="restore"):
        Tokens(tmp_path / "tokens.csv", [])
    assert (tmp_path / "tokens.csv").read_text() == text


@pytest.fixture
def kit(tmp_path):
    """The files of a hospital's start-up kit that tmqc changes, as made by the installed version of FLARE."""
    lighter = pytest.importorskip("nvflare.lighter")
    templates = yaml.safe_load((Path(lighter.__file__).parent / "templates" / "master_template.yml").read_text())
    local = tmp_path / "kit" / "local"
    local.mkdir(parents=True)
    resources = templates["local_client_resources"].replace("{~~class_allow_list~~}", '["nvflare.x.Y"]')
    resources = re.sub(r"{~~\w+~~}", "0", resources.replace("{~~allow_log_streaming~~}", "true"))
    (local / "resources.json.default").write_text(resources)
    (local / "authorization.json.default").write_text(templates["default_authz"])
    write_site_settings(tmp_path / "site.yaml", SiteSettings(tmp_path / "train.csv", None, tmp_path / "tokens.csv"))
    return tmp_path / "kit"


def test_prepared_kit_allows_tmqc_classes_and_links_the_site_settings(kit):
    from tmqc.federation.flare_kit import prepare_kit

    for _ in range(2):
        prepare_kit(kit, kit.with_name("site.yaml"))
    content = json.loads((kit / "local" / "resources.json").read_text())
    assert content["class_allow_list"] == ["nvflare.x.Y", "tmqc.federation.flare_job."]
    settings = read_site_settings(kit.with_name("site.yaml"))
    assert read_site_settings(kit / "local" / "tmqc_site.yaml") == settings
    kit.with_name("site.yaml").write_text("train_csv: train.csv\nmin_cell: 9\n")  # changed later, without joining again
    changed = read_site_settings(kit / "local" / "tmqc_site.yaml")
    assert (changed.min_cell, changed.train_csv) == (9, kit.with_name("train.csv").resolve())


def test_joining_with_the_settings_in_the_kit_keeps_them(kit):
    """For the link, and for the copy made by earlier versions."""
    from tmqc.federation.flare_kit import prepare_kit

    inside = kit / "local" / "tmqc_site.yaml"
    prepare_kit(kit, kit.with_name("site.yaml"))
    prepare_kit(kit, inside)
    settings = read_site_settings(kit.with_name("site.yaml"))
    assert read_site_settings(inside) == settings
    inside.unlink()
    write_site_settings(inside, settings)
    prepare_kit(kit, inside)
    assert read_site_settings(inside) == settings


def test_prepared_kit_does_not_stream_logs_to_the_server(kit):
    from tmqc.federation.flare import ALLOWED
    from tmqc.federation.flare_kit import prepare_kit

    before = json.loads((kit / "local" / "resources.json.default").read_text())
    assert before["allow_log_streaming"], "FLARE's default is another by now"
    further = {"id": "further", "class_path": "a.b.JobLogStreamer"}  # FLARE identifies classes by this name too
    before["components"].append(further)
    (kit / "local" / "resources.json").write_text(json.dumps(before))
    prepare_kit(kit, kit.with_name("site.yaml"))
    content = json.loads((kit / "local" / "resources.json").read_text())
    assert content["allow_log_streaming"] is ALLOWED["allow_log_streaming"] is False
    assert {one["id"] for one in before["components"]} - {one["id"] for one in content["components"]} == {
        "site_log_streamer",
        "further",
    }


def test_prepared_kit_denies_reading_files_and_custom_code_to_all_roles(kit):
    from nvflare.fuel.sec.authz import AuthzContext, Person
    from nvflare.security.security import FLAuthorizer

    from tmqc.federation.flare_kit import prepare_kit

    def may(role, right):
        who = Person("a@b.org", "org", role)
        return FLAuthorizer("org", policy).evaluate(AuthzContext(right=right, user=who, submitter=who))[0]

    reading, running = ("cat", "ls", "tail", "grep", "byoc"), ("submit_job", "abort_job", "check_status", "sys_info")
    policy = json.loads((kit / "local" / "authorization.json.default").read_text())
    policy["permissions"]["lead"]["cat"] = "any"  # a single command allowed besides the others
    policy["permissions"] |= {"owner": {"*": "any", "view": "none"}, "guest": {"Cat": "any", " TAIL": "any"}}
    assert may("owner", "cat") and may("owner", "byoc") and may("guest", "cat") and may("guest", "tail")
    assert all(may("project_admin", right) for right in reading + running)
    (kit / "local" / "authorization.json").write_text(json.dumps(policy))
    for _ in range(2):
        prepare_kit(kit, kit.with_name("site.yaml"))
    policy = json.loads((kit / "local" / "authorization.json").read_text())
    assert not [(role, right) for role in policy["permissions"] for right in reading if may(role, right)]
    assert all(may(role, right) for role in ("project_admin", "lead", "owner") for right in running)


def test_server_kit_keeps_its_policy(kit):
    from tmqc.federation.flare_kit import prepare_kit

    prepare_kit(kit, None)
    assert not (kit / "local" / "authorization.json").exists()
    assert json.loads((kit / "local" / "resources.json").read_text())["allow_log_streaming"]


def test_joining_checks_all_scans_before_it_changes_the_kit(kit, capsys):
    site, join = kit.parent, load_script("join_federation").main
    image = sitk.GetImageFromArray(np.arange(4 * 5 * 6, dtype=np.uint8).reshape(6, 5, 4))
    sitk.WriteImage(image, str(site / "a.nii.gz"))
    sitk.WriteImage(image + 1, str(site / "b.nii.gz"))
    rows = "".join(f"{name},{name}.nii.gz,Berlin,{i},F,60\n" for i, name in enumerate("ab"))
    (site / "train.csv").write_text("Subject,Path,Study,Group_bin,Sex,Age\n" + rows)
    (site / "b.nii.gz").write_bytes((site / "b.nii.gz").read_bytes()[:40])
    command = [str(kit), "--settings", str(site / "site.yaml"), "--shape", "4", "5", "6", "--orientation", "LPS"]
    before = sorted((kit / "local").iterdir())
    assert join(command) == 2
    assert "subject b" in (message := capsys.readouterr().err)
    assert "subject a" not in message
    assert sorted((kit / "local").iterdir()) == before
    sitk.WriteImage(image + 1, str(site / "b.nii.gz"))
    assert join(command) == 0
    assert "2 training and 0 verification scans can be read" in capsys.readouterr().out
    assert (kit / "local" / "tmqc_site.yaml").is_symlink()
