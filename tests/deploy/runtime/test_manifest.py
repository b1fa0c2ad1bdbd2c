import json

import pytest

from deploy.runtime.errors import ManifestError
from deploy.runtime.manifest import Manifest


@pytest.fixture
def copied(onnx_path, tmp_path):
    for path in (onnx_path, onnx_path.with_suffix(".json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / onnx_path.name


def edit(path, **changes):
    file = path.with_suffix(".json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_what_is_saved_is_what_is_loaded(copied):
    manifest = Manifest.load(copied)
    manifest.save(copied.with_suffix(".json"))
    assert Manifest.load(copied) == manifest
    assert manifest.classes[0] == "car" and manifest.history == 2 and manifest.opset >= 17


def test_another_onnx_file_is_refused(copied):
    copied.write_bytes(copied.read_bytes() + b"\0")
    with pytest.raises(
        ManifestError, match=r"apprentice\.onnx is not the file apprentice\.json describes; export again"
    ):
        Manifest.load(copied)


def test_a_missing_manifest_is_named(copied):
    copied.with_suffix(".json").unlink()
    with pytest.raises(ManifestError, match=r"apprentice\.json is missing: keep the manifest beside apprentice\.onnx"):
        Manifest.load(copied)


def test_a_missing_onnx_file_is_named(copied):
    copied.unlink()
    with pytest.raises(ManifestError, match=r"apprentice\.onnx does not exist: write it with `tutelage export"):
        Manifest.load(copied)


def test_a_manifest_cut_short_is_refused(copied):
    file = copied.with_suffix(".json")
    file.write_text(file.read_text()[:500])
    with pytest.raises(ManifestError, match=r"apprentice\.json is not JSON"):
        Manifest.load(copied)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "other/9"}, "schema is 'other/9', this runtime reads"),
        ({"colour": 1}, r"keys unknown \['colour'\]"),
        ({"classes": ["car"]}, "do not list the classes"),
        ({"depth_bins": [1.0, 60.0, 0.7]}, "depth_bins is 84.28"),
        ({"frustum": "round"}, "frustum 'round' is not one of"),
        ({"nms": []}, "0 NMS settings for 6 tasks"),
        ({"tasks": 3}, "a value has the wrong form"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(copied, changes, message):
    edit(copied, **changes)
    with pytest.raises(ManifestError, match=message):
        Manifest.load(copied)


def test_a_graph_that_differs_from_the_manifest_is_refused(copied):
    from deploy.runtime.session import Session

    inputs = json.loads(copied.with_suffix(".json").read_text())["inputs"]
    inputs[5]["shape"][1] = 8
    edit(copied, inputs=inputs)
    with pytest.raises(
        ManifestError, match=r"input 'history' wants \(1, 8, 8, 64, 64\) float32 .* got \(1, 2, 8, 64, 64\)"
    ):
        Session(copied, Manifest.load(copied))
