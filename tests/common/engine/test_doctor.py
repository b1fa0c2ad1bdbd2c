"""The doctor finds what it is meant to find, in one line each."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from common.engine import doctor

ROOT = Path(__file__).resolve().parents[3]


def bad(findings):
    return [finding for finding in findings if finding.status == "bad"]


def test_the_quick_examination_passes_here_within_its_ten_seconds():
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "common.cli", "doctor", "--quick"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "nothing in the way"
    assert all(len(line) < 160 for line in done.stdout.splitlines())
    after = os.times()  # processor time of the child: other processes on the machine do not count
    assert after.children_user + after.children_system - before.children_user - before.children_system < 10


def test_every_pinned_package_is_looked_at():
    seen = {finding.item for finding in doctor.check_versions()}
    assert {"torch", "mmengine", "mmcv", "mmdet3d", "numpy", "nuscenes-devkit", "onnxruntime"} <= seen


def test_a_wrong_version_names_what_is_wanted_and_how_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "9.9.9")
    wrong = {finding.item: finding.text for finding in bad(doctor.check_versions())}
    assert wrong["mmengine"] == "is 9.9.9, wanted ==0.10.7: pip install 'mmengine==0.10.7'"


def test_a_missing_package_names_how_to_get_it(monkeypatch):
    def missing(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", missing)
    gone = {finding.item: finding.text for finding in bad(doctor.check_versions())}
    assert gone["mmcv"] == "missing: pip install 'mmcv==2.1.0'"


def test_compiled_operators_are_run_not_only_imported(monkeypatch):
    import torch
    from mmcv import ops

    assert not bad(doctor.check_mmcv_ops())
    monkeypatch.setattr(ops, "box_iou_rotated", lambda a, b: torch.zeros(2, 2))
    assert "wrong results" in bad(doctor.check_mmcv_ops())[0].text


def test_a_library_that_does_not_load_names_its_package():
    findings = bad(doctor.check_libraries(loads=lambda name: name != "libGL.so.1"))
    assert [f.item for f in findings] == ["libGL.so.1"] and "apt-get install libgl1" in findings[0].text
    assert not bad(doctor.check_libraries(loads=lambda name: name != "libEGL.so.1"))


def test_our_names_are_ours_here():
    assert not bad(doctor.check_collisions())


@pytest.mark.parametrize("layout", ["package", "module"])
def test_another_package_of_the_same_name_is_found_out(tmp_path, monkeypatch, layout):
    name = "tutelage_probe_common"
    (tmp_path / "ours" / name).mkdir(parents=True)
    (tmp_path / "ours" / name / "__init__.py").touch()
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    if layout == "package":
        (theirs / name).mkdir()
        (theirs / name / "__init__.py").touch()
    else:
        (theirs / f"{name}.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "ours"))
    assert not bad(doctor.check_collisions([name], tmp_path / "ours"))
    monkeypatch.syspath_prepend(str(theirs))
    found = bad(doctor.check_collisions([name], tmp_path / "ours"))
    assert len(found) == 1 and str(theirs) in found[0].text


def test_python_control_is_named_as_a_collision(monkeypatch):
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.10.1")
    assert "pip uninstall control" in bad(doctor.check_collisions())[0].text


def test_a_folder_without_tables_is_noted_and_a_missing_one_is_in_the_way(tmp_path):
    findings = doctor.check_data([str(tmp_path), str(tmp_path / "gone")])
    assert [finding.status for finding in findings] == ["note", "bad"]
    assert "no nuScenes tables" in findings[0].text and "gone: no such folder" in findings[1].text


def test_tables_and_infos_of_a_root_are_listed_and_a_foreign_info_file_is_in_the_way(tmp_path):
    (tmp_path / "v1.0-mini").mkdir()
    (tmp_path / "v1.0-mini" / "sample.json").write_text("[]")
    assert "none yet" in doctor.check_data([str(tmp_path)])[1].text
    (tmp_path / "nuscenes_infos_val.pkl").write_bytes(pickle.dumps({"metainfo": {}, "data_list": [{}]}))
    findings = doctor.check_data([str(tmp_path)])
    assert findings[0].status == "ok" and "v1.0-mini" in findings[0].text
    assert [f.item for f in bad(findings)] == ["infos"] and "nuscenes_infos_val.pkl" in bad(findings)[0].text


def test_anything_in_the_way_makes_the_exit_code_1(tmp_path, capsys):
    assert doctor.main(["--data", str(tmp_path / "gone")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 in the way"
