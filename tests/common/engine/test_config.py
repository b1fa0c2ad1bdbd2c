"""Configs and overrides: a key that does not exist is an error that names the nearest one."""

import pytest
from mmengine.config import Config

from common.engine.config import as_config, default_work_dir, load_config, override, parse_options
from common.errors import ConfigError

READ_NOWHERE = "from mmengine.config import read_base\nwith read_base():\n    from .nowhere import *\n"


@pytest.fixture
def cfg():
    return Config(
        {
            "model": {"type": "Net", "backbone": {"depth": 50, "stages": (0, 1)}},
            "pipeline": [{"type": "Load", "scale": 1.0}, {"type": "Flip"}],
            "train_cfg": {"max_iters": 10},
        }
    )


def test_existing_keys_are_replaced_at_any_depth(cfg):
    override(cfg, {"model.backbone.depth": 18, "pipeline.0.scale": 2.0, "train_cfg.max_iters": 5})
    assert (cfg.model.backbone.depth, cfg.pipeline[0].scale, cfg.train_cfg.max_iters) == (18, 2.0, 5)
    assert cfg.pipeline[1].type == "Flip" and cfg.model.type == "Net"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("model.backbone.detph", "did you mean model.backbone.depth?"),
        ("modle.backbone.depth", "did you mean model?"),
        ("model.backbone.zzz", "it has depth, stages"),
        ("pipeline.7.scale", "pipeline is a list of 2"),
        ("pipeline.scale", "pipeline is a list of 2"),
        ("pipeline.0.scle", "did you mean pipeline.0.scale?"),
        ("model.backbone.depth.x", "model.backbone.depth is 50, not a dictionary"),
        ("model.backbone.stages.0", "a tuple, which is replaced as a whole"),
    ],
)
def test_a_key_that_does_not_exist_is_refused_with_the_nearest(cfg, key, says):
    before = cfg.to_dict()
    with pytest.raises(ConfigError) as raised:
        override(cfg, {key: 1})
    assert key in str(raised.value) and says in str(raised.value)
    assert cfg.to_dict() == before


def test_mmengine_itself_would_have_added_the_misspelt_key_in_silence(cfg):
    cfg.merge_from_dict({"model.backbone.detph": 18})
    assert cfg.model.backbone == {"depth": 50, "stages": (0, 1), "detph": 18}


def test_a_dictionary_as_value_is_merged_and_its_keys_are_checked_too(cfg):
    override(cfg, {"model.backbone": {"depth": 34}})
    assert cfg.model.backbone == {"depth": 34, "stages": (0, 1)}
    with pytest.raises(ConfigError, match=r"model\.backbone\.dpeth"):
        override(cfg, {"model.backbone": {"dpeth": 34}})


def test_delete_replaces_a_dictionary(cfg):
    override(cfg, {"model.backbone": {"_delete_": True, "type": "Other"}})
    assert cfg.model.backbone == {"type": "Other"}


def test_a_plus_adds_a_key_on_purpose_but_not_its_parents(cfg):
    override(cfg, {"+model.backbone.frozen": True})
    assert cfg.model.backbone.frozen is True
    with pytest.raises(ConfigError, match="no key 'nek'"):
        override(cfg, {"+model.nek.width": 3})


def test_arguments_of_the_runner_can_always_be_set(cfg):
    override(cfg, {"load_from": "a.pth"})
    assert cfg.load_from == "a.pth"


def test_a_linked_variable_sets_every_key_made_of_it(cfg):
    cfg.merge_from_dict({"depth": 50, "linked": {"depth": ["model.backbone.depth", "pipeline.0.scale"]}})
    override(cfg, {"depth": 18})
    assert (cfg.depth, cfg.model.backbone.depth, cfg.pipeline[0].scale) == (18, 18, 18)


def test_a_variable_that_is_used_up_already_is_refused_where_variables_are_linked(cfg):
    cfg.merge_from_dict({"depth": 50, "width": 8, "sync_bn": None, "linked": {"depth": ["model.backbone.depth"]}})
    with pytest.raises(ConfigError, match=r"width is an ingredient .* linked variables \(depth\)"):
        override(cfg, {"width": 16})
    override(cfg, {"sync_bn": "torch", "train_cfg.max_iters": 3})  # the Runner reads these
    assert cfg.sync_bn == "torch"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("None", None),
        ("True", True),
        ("true", True),
        ("plain words", "plain words"),
        ("[1,2]", [1, 2]),
        ("[a,b]", ["a", "b"]),
        ("(8,16)", (8, 16)),
        ("{'a': 1}", {"a": 1}),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_values_of_the_command_line_are_literals_or_strings(text, value):
    assert parse_options([f"k={text}"]) == {"k": value}


def test_an_option_without_an_equals_sign_is_an_error():
    with pytest.raises(ConfigError, match="write key=value"):
        parse_options(["model.depth"])


def test_a_missing_config_names_its_neighbour(tmp_path):
    (tmp_path / "baseline.py").write_text("a = 1\n")
    with pytest.raises(FileNotFoundError, match=r"did you mean .*baseline\.py"):
        load_config(tmp_path / "baselin.py")


@pytest.mark.parametrize("text", ["a = (", "a = undefined_name", READ_NOWHERE])
def test_a_config_that_does_not_parse_names_its_file(tmp_path, text):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.py"):
        load_config(path)


def test_inherited_bases_and_imported_classes_work_and_dump_to_the_same(tmp_path):
    (tmp_path / "base.py").write_text(
        "import os\nfrom torch.optim import AdamW\nroot = os.environ.get('NO_SUCH_NAME', 'data')\n"
        "optimizer = dict(type=AdamW, lr=0.1)\n"
    )
    (tmp_path / "child.py").write_text(
        "from mmengine.config import read_base\nwith read_base():\n    from .base import *\noptimizer.update(lr=0.2)\n"
    )
    cfg = load_config(tmp_path / "child.py", {"optimizer.lr": 0.3})
    assert cfg.root == "data" and cfg.optimizer.lr == 0.3
    cfg.dump(str(tmp_path / "dump.py"))
    again = load_config(tmp_path / "dump.py")
    assert again.to_dict() == cfg.to_dict() and again.optimizer.type == "torch.optim.AdamW"


def test_classes_given_as_objects_are_named_by_path_and_the_original_is_left_alone():
    given = {"model": {"type": Config}, "hooks": [{"type": parse_options}]}
    copy = as_config(given)
    assert copy.model.type == "mmengine.config.config.Config"
    assert copy.hooks[0].type == "common.engine.config.parse_options"
    assert given["model"]["type"] is Config


def test_the_work_dir_is_named_after_the_config(tmp_path):
    (tmp_path / "expert.py").write_text("a = 1\n")
    cfg = load_config(tmp_path / "expert.py")
    assert default_work_dir(cfg) == "work_dirs/expert"
    cfg.work_dir = "elsewhere"
    assert default_work_dir(cfg) == "elsewhere"
