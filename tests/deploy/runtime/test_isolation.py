import subprocess
import sys

PROGRAM = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "mmengine", "mmcv", "mmdet3d", "cv2", "onnx", "perception", "common"}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Refuse())
import numpy as np
from deploy.frames import drawn_frames, surround_rig
from deploy.runtime import Manifest, Rig, StreamingDetector

manifest = Manifest.load(sys.argv[1])
rig = surround_rig(manifest, 3)
detector = StreamingDetector(sys.argv[1], rig, threads=1)
found = [detector.step(**frame.arguments(rig)) for frame in drawn_frames(manifest, rig, 3)]
assert "torch" not in sys.modules
np.save(sys.argv[2], np.concatenate([f.boxes for f in found]))
"""


def test_the_runtime_gives_the_same_boxes_where_torch_cannot_be_imported(onnx_path, rig, frames, tmp_path):
    from deploy.runtime import StreamingDetector

    out = tmp_path / "boxes.npy"
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(onnx_path), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    import numpy as np

    here = StreamingDetector(onnx_path, rig, threads=1)
    boxes = np.concatenate([here.step(**frame.arguments(rig)).boxes for frame in frames[:3]])
    np.testing.assert_array_equal(np.load(out), boxes)
