"""Checkpoints of the published sizes with random weights, and the study of an evening on them, for ``kdlib plan``.

``python tests/bench/published.py FOLDER && kdlib plan FOLDER/evening.yaml``: README's GB and hours.
"""

import sys
from pathlib import Path

import transformers as hf
import yaml

from kdlib import teachers
from kdlib.utils import project_root, write_atomic

TOY = Path(teachers.__file__).parent / "toy"
BEIT = {"use_relative_position_bias": True, "use_mean_pooling": True, "layer_scale_init_value": 0.1}
BLIP = {"text_config": {"initializer_range": 0.02}, "vision_config": {"initializer_range": 0.02}}  # 1e-10 by default
MODELS = {
    "dino": (hf.ViTModel, hf.ViTConfig(), hf.ViTImageProcessor()),
    "beit": (hf.BeitModel, hf.BeitConfig(**BEIT), hf.ViTImageProcessor()),
    "clip": (hf.CLIPModel, hf.CLIPConfig(), hf.CLIPImageProcessor()),
    "blip": (hf.BlipForImageTextRetrieval, hf.BlipConfig(**BLIP), hf.BlipImageProcessor()),
}


def main(folder: Path) -> None:
    content = yaml.safe_load((project_root() / "notebooks/studies/evening.yaml").read_text(encoding="utf-8"))
    for name, parameters in content["notebooks"].items():
        family, (kind, config, preprocess) = name.split("_")[0], MODELS[name.split("_")[0]]
        kind(config).save_pretrained(folder / family)
        preprocess.save_pretrained(folder / family)
        if family in ("clip", "blip"):
            hf.AutoTokenizer.from_pretrained(TOY / family).save_pretrained(folder / family)
        content["notebooks"][name] = (parameters or {}) | {"checkpoint": str(folder / family)}
    write_atomic(folder / "evening.yaml", yaml.safe_dump(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
