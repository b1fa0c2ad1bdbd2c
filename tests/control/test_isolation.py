"""The control arm where the detector's packages are not installed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import importlib, pathlib, sys

BLOCKED = {"mmcv", "mmdet", "mmdet3d", "open3d", "nuscenes", "perception"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Refuse())
patterns = ("control/**/*.py", "common/diffusion/*.py", "common/nn/*.py", "deploy/policy*.py", "deploy/rollout.py")
files = [file for pattern in patterns for file in pathlib.Path().glob(pattern)]
names = sorted({".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files})
for name in names:
    importlib.import_module(name)
from common.engine.config import load_config
from control.policies.model import build
configs = sorted(pathlib.Path("configs/control/sdp").glob("*_metaworld_state.py"))
for config in configs:
    build(load_config(str(config)).model)
print(len(names), len(configs), len(BLOCKED & {name.split(".")[0] for name in sys.modules}))
"""


def test_every_module_and_config_of_the_arm_works_without_the_detectors_packages():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules, configs, blocked = map(int, done.stdout.split()[-3:])
    assert modules > 40 and configs >= 5 and blocked == 0
