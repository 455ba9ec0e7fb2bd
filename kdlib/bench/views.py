"""An epoch of a pixel student on stored views against lightly-train's distillation.

lightly-train runs in an environment of its own; KDLIB_LIGHTLY names its python (``pip install lightly-train``).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from kdlib import data as datasets
from kdlib import features
from kdlib.bench.convnet import _Files, _image_folder
from kdlib.bench.measure import Row, Setting
from kdlib.config import RunConfig
from kdlib.distiller import build
from kdlib.features.encoders import Encoder
from kdlib.features.loader import Split, TrainLoader
from kdlib.features.store import FeatureStore
from kdlib.features.views import Views
from kdlib.files import RunDir
from kdlib.trainer import train

ENVIRONMENT = "KDLIB_LIGHTLY"
IMAGES, BATCH, WIDTH = 256, 32, 384  # DINOv2 ViT-S/14 has features of this width
LIKE, OWN = 224, 64  # pixels a side: lightly-train's default, and those that Tiny ImageNet has
VIEWS = Views(2, 0.7, True)
BAR = 5.0
EPOCHS = (1, 3)  # of lightly-train: the difference is two epochs, without start and end
# Teacher and student see the same crops there, at one size.
THEIRS = """
import json, sys, time
job = json.loads(sys.argv[1])
import torch
torch.set_num_threads(job["threads"])
import lightly_train
seconds = []
for epochs in job["epochs"]:
    started = time.perf_counter()
    lightly_train.pretrain(
        out=f"{job['out']}-{epochs}", data=job["data"], model="torchvision/resnet18", method="distillationv1",
        method_args={"teacher": "dinov2/vits14-notpretrained"}, epochs=epochs, batch_size=job["batch"],
        num_workers=job["threads"], devices=1, accelerator="cpu", precision="32-true", overwrite=True,
        transform_args={"image_size": [job["size"]] * 2},
    )
    seconds.append(time.perf_counter() - started)
json.dump(seconds, open(job["answer"], "w"))
"""


def run(setting: Setting) -> list[Row]:
    """The student at lightly-train's image size and at its own; no rows without lightly-train."""
    python = os.environ.get(ENVIRONMENT, "")
    if not Path(python).is_file():
        print(f"views: skipped; {ENVIRONMENT} names no python of an environment with lightly-train.", file=sys.stderr)
        return []
    dataset = datasets.load("tinyimagenet", setting.data_root, "fit")
    rows = np.random.default_rng(0).choice(len(dataset), min(IMAGES, len(dataset)), replace=False)
    folder = _image_folder(setting, dataset, rows)
    theirs = len(rows) // BATCH * BATCH / their_epoch(python, folder, setting)
    made = []
    for size, bar in ((LIKE, None), (OWN, BAR)):
        ours = len(rows) // BATCH * BATCH / our_epoch(setting, folder, size)
        made.append(
            Row(
                f"an epoch of ResNet-18 at {size} pixels from {VIEWS.count} stored views, teacher DINOv2 ViT-S/14",
                f"lightly-train's distillation at {LIKE} pixels, its teacher live in the loop",
                ours / theirs,
                bar,
                ours,
                theirs,
                "images/s",
                note="float32 on both sides; lightly-train has one size for teacher and student",
            )
        )
    shutil.rmtree(folder)
    return made


def their_epoch(python: str, folder: Path, setting: Setting, size: int = LIKE) -> float:
    """Seconds of an epoch of lightly-train. Raises CalledProcessError when it fails."""
    answer = setting.scratch / "lightly.json"
    job = {"out": str(setting.scratch / "lightly"), "data": str(folder), "answer": str(answer), "epochs": EPOCHS,
           "batch": BATCH, "size": size, "threads": setting.threads}  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([python, "-c", THEIRS, json.dumps(job)], check=True, env=environment, stdout=subprocess.DEVNULL)
    first, last = json.loads(answer.read_text())
    for epochs in EPOCHS:
        shutil.rmtree(f"{job['out']}-{epochs}", ignore_errors=True)
    return (last - first) / (EPOCHS[1] - EPOCHS[0])


def our_epoch(setting: Setting, folder: Path, size: int) -> float:
    """Seconds of the trainer's second epoch, on random features in the place of the teacher's."""
    split = _split(setting, folder, size)
    given = {"width": 256, "batch_size": BATCH, "threads": setting.threads, "device": "cpu", "lr_peak": 1e-3}
    config = RunConfig(study="bench", teacher="dinov2", dataset="tinyimagenet", method="resnet", epochs=2,
                       convnet="full", image_size=size, objective="feature_regression", **given)  # fmt: skip
    run = RunDir(setting.scratch / "run")
    shutil.rmtree(run.path, ignore_errors=True)
    loader = TrainLoader(split, "pixels", BATCH, seed=0, views=VIEWS)
    history = train(build(config, split), loader, config, run, "bench")
    shutil.rmtree(run.path)
    return history[-1]["seconds"]


def _split(setting: Setting, folder: Path, size: int) -> Split:
    paths = sorted(folder.rglob("*.jpg"))
    files = _Files(paths, np.zeros(len(paths), dtype=np.int64))

    def random(prepared: list, texts) -> dict[str, np.ndarray]:
        drawn = np.random.default_rng(len(prepared)).standard_normal((len(prepared), VIEWS.count + 1, WIDTH))
        return {"image_pooled": drawn[:, 0].astype(np.float16), "view_pooled": drawn[:, 1:].astype(np.float16)}

    encoders = {
        "pooled": Encoder(lambda image, name: 0, random, {"grid": [16, 16], "logit_scale": 14.0}),
        "pixels": features.pixel_encoder(size),
        "source": features.pixel_encoder(VIEWS.source_size(size)),
    }
    stores = {}
    for name, encoder in encoders.items():
        path = setting.scratch / f"views-{name}"
        shutil.rmtree(path, ignore_errors=True)
        features.build_store(path, {"bench": name}, files, lambda encoder=encoder: encoder)
        stores[name] = FeatureStore.open(path)
    return Split("fit", stores["pooled"], stores["pixels"], source=stores["source"], views=stores["pooled"])
