"""The four published checkpoints in their exact layouts, with random weights: files, keys, configurations as on main.

``write(family, folder)`` makes a small one in a second; ``size="full"`` the published architecture. The configurations
are written as the transformers of their year wrote them, preprocessing as ``*FeatureExtractor``, weights pickled.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

IDS = {
    "dino": "facebook/dino-vitb16",
    "beit": "microsoft/beit-base-patch16-224-pt22k-ft22k",
    "clip": "openai/clip-vit-base-patch32",
    "blip": "Salesforce/blip-itm-base-coco",
}
PARAMETERS = {"dino": 85_798_656, "beit": 102_557_713, "clip": 151_277_313, "blip": 223_744_258}
OPENAI = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
WORDS = ["a", "the", "red", "blue", "circle", "square", "cat", "dog", "photo", "picture", "of", "two", "on", "with"]


def write(family: str, folder: Path, size: str = "small", pickled: bool = True, legacy: bool = False) -> Path:
    """Write a checkpoint to ``folder``: pytorch_model.bin, or model.safetensors as its pull request has it.

    ``legacy``: the pickle of torch before 1.6, which is no zip archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    full = size == "full"
    config, preprocessor = globals()[f"_{family}"](full)
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", preprocessor)
    if family in ("clip", "blip"):
        globals()[f"_{family}_tokenizer"](folder, config["text_config"]["vocab_size"])
    weights = state(family, folder)
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def publish(
    hub, folder: Path, size: str = "small", pinned: bool = True, families: tuple = tuple(IDS)
) -> dict[str, str]:
    """Put the repositories on a :class:`rehearsal.hub.Hub` as they are published; family -> commit of main.

    main has the pickle; a pull request with safetensors is at the commit that kdlib pins, unless not ``pinned``. The
    digests of these random weights are not the published ones, so that main is refused as long as kdlib knows its own.
    """
    from kdlib.teachers import TEACHERS

    heads = {}
    for family in families:
        repository = hub.repository(IDS[family])
        main = write(family, folder / family / "main", size)
        heads[family] = repository.commit(main, "main")
        if pinned:
            request = folder / family / "request"
            shutil.copytree(main, request)
            weights = torch.load(main / "pytorch_model.bin", weights_only=True, mmap=True)
            save_file(weights, request / "model.safetensors", metadata={"format": "pt"})
            repository.commit(request, "refs/pr/1", sha=TEACHERS[family].REVISION)
    return heads


def parameters(family: str) -> int:
    """Parameters of the published architecture, by its configuration, without memory for any."""
    with tempfile.TemporaryDirectory() as scratch, torch.device("meta"):
        write_json(Path(scratch) / "config.json", globals()[f"_{family}"](True)[0])
        return sum(parameter.numel() for parameter in _model(family, Path(scratch)).parameters())


def state(family: str, folder: Path) -> dict[str, Tensor]:
    """Random weights under the published names, with the index buffers that old versions of transformers saved."""
    torch.manual_seed(0)
    model = _model(family, folder)
    config = model.config
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)  # which writes the names that were published
        weights = load_file(Path(scratch) / "model.safetensors")
    if family == "clip":
        patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2 + 1
        positions = {"text_model": config.text_config.max_position_embeddings, "vision_model": patches}
        weights |= {f"{side}.embeddings.position_ids": torch.arange(count)[None] for side, count in positions.items()}
    if family == "blip":
        count = config.text_config.max_position_embeddings
        weights["text_encoder.embeddings.position_ids"] = torch.arange(count)[None]
    if family == "beit":
        side = (config.image_size // config.patch_size) ** 2 + 1
        for layer in range(config.num_hidden_layers):
            name = f"beit.encoder.layer.{layer}.attention.attention.relative_position_bias.relative_position_index"
            weights[name] = torch.zeros(side, side, dtype=torch.int64)
    return weights


def _model(family: str, folder: Path):
    """An untrained model of the class that wrote the published checkpoint."""
    from transformers import BeitForImageClassification, BlipForImageTextRetrieval, CLIPModel, ViTModel

    classes = {"beit": BeitForImageClassification, "clip": CLIPModel, "blip": BlipForImageTextRetrieval}
    kind = classes.get(family, ViTModel)
    config = kind.config_class.from_pretrained(folder)
    return kind(config, add_pooling_layer=False) if family == "dino" else kind(config)


def write_json(path: Path, content: dict) -> None:
    """As transformers writes it."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _vit(full: bool) -> dict:
    sizes = BASE | {"image_size": 224, "patch_size": 16} if full else SMALL | {"image_size": 48, "patch_size": 8}
    plain = {"attention_probs_dropout_prob": 0.0, "hidden_act": "gelu", "hidden_dropout_prob": 0.0}
    return sizes | plain | {"initializer_range": 0.02, "layer_norm_eps": 1e-12, "num_channels": 3}


def _dino(full: bool) -> tuple[dict, dict]:
    config = _vit(full) | {"architectures": ["ViTModel"], "model_type": "vit", "qkv_bias": True}
    preprocessor = {"do_normalize": True, "do_resize": True, "feature_extractor_type": "ViTFeatureExtractor"}
    preprocessor |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    return config | {"transformers_version": "4.9.0.dev0"}, preprocessor | {"resample": 3, "size": config["image_size"]}


def _beit(full: bool) -> tuple[dict, dict]:
    classes = 21_841 if full else 30
    config = _vit(full) | {
        "architectures": ["BeitForImageClassification"],
        "auxiliary_channels": 256,
        "auxiliary_concat_input": False,
        "auxiliary_loss_weight": 0.4,
        "auxiliary_num_convs": 1,
        "drop_path_rate": 0.1,
        "gradient_checkpointing": False,
        "id2label": {str(number): f"class {number}" for number in range(classes)},
        "label2id": {f"class {number}": number for number in range(classes)},
        "layer_scale_init_value": 0.1,
        "model_type": "beit",
        "out_indices": [3, 5, 7, 11] if full else [0, 1],
        "pool_scales": [1, 2, 3, 6],
        "semantic_loss_ignore_index": 255,
        "torch_dtype": "float32",
        "transformers_version": "4.11.0.dev0",
        "use_absolute_position_embeddings": False,
        "use_auxiliary_head": True,
        "use_mask_token": False,
        "use_mean_pooling": True,
        "use_relative_position_bias": True,
        "use_shared_relative_position_bias": False,
        "vocab_size": 8192,
    }
    preprocessor = {"crop_size": config["image_size"], "do_center_crop": False, "do_normalize": True, "do_resize": True}
    preprocessor |= {"feature_extractor_type": "BeitFeatureExtractor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return config, preprocessor | {"resample": 2, "size": config["image_size"]}


# What transformers 4.16 wrote into each nested configuration, at its defaults.
NESTED = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "bad_words_ids": None,
    "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None, "decoder_start_token_id": None,
    "diversity_penalty": 0.0, "do_sample": False, "early_stopping": False, "encoder_no_repeat_ngram_size": 0,
    "finetuning_task": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": False, "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "length_penalty": 1.0, "max_length": 20, "min_length": 0,
    "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "output_attentions": False, "output_hidden_states": False, "output_scores": False, "prefix": None,
    "problem_type": None, "pruned_heads": {}, "remove_invalid_values": False, "repetition_penalty": 1.0,
    "return_dict": True, "return_dict_in_generate": False, "sep_token_id": None, "task_specific_params": None,
    "temperature": 1.0, "tie_encoder_decoder": False, "tie_word_embeddings": True, "tokenizer_class": None,
    "top_k": 50, "top_p": 1.0, "torch_dtype": None, "torchscript": False, "use_bfloat16": False,
}  # fmt: skip


def _clip(full: bool) -> tuple[dict, dict]:
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 12}
    vision = BASE | {"image_size": 224, "patch_size": 32}
    if not full:
        text, vision = SMALL, SMALL | {"image_size": 48, "patch_size": 8}
    width, vocabulary = (512, 49_408) if full else (32, 700)
    both = NESTED | {"attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "quick_gelu", "initializer_factor": 1.0}
    both |= {"initializer_range": 0.02, "layer_norm_eps": 1e-05, "transformers_version": "4.16.0.dev0"}
    special = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "max_position_embeddings": 77}
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": width,
        "text_config": both | text | special | {"model_type": "clip_text_model", "vocab_size": vocabulary},
        "text_config_dict": None,
        "torch_dtype": "float32",
        "transformers_version": None,
        "vision_config": both | vision | none | {"model_type": "clip_vision_model"},
        "vision_config_dict": None,
    }
    side = vision["image_size"]
    preprocessor = {"crop_size": side, "do_center_crop": True, "do_normalize": True, "do_resize": True, "size": side}
    return config, preprocessor | OPENAI | {"feature_extractor_type": "CLIPFeatureExtractor", "resample": 3}


def _blip(full: bool) -> tuple[dict, dict]:
    text = BASE | {"max_position_embeddings": 512, "vocab_size": 30_524} if full else SMALL
    text = {"max_position_embeddings": 64, "vocab_size": 300} | text
    vision = BASE | {"image_size": 384, "patch_size": 16} if full else SMALL | {"image_size": 48, "patch_size": 8}
    both = NESTED | {"initializer_range": 0.02, "transformers_version": "4.26.0.dev0"}
    text |= {
        "attention_probs_dropout_prob": 0.0,
        "bos_token_id": text["vocab_size"] - 2,
        "encoder_hidden_size": vision["hidden_size"],
    }
    text |= {"eos_token_id": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "is_decoder": True}
    text |= {"layer_norm_eps": 1e-12, "model_type": "blip_text_model", "pad_token_id": 0, "projection_dim": 768}
    text |= {"sep_token_id": 102, "use_cache": True}
    vision |= {"attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "gelu", "initializer_factor": 1.0}
    vision |= {"layer_norm_eps": 1e-05, "model_type": "blip_vision_model", "num_channels": 3, "projection_dim": 512}
    config = {
        "_commit_hash": None,
        "architectures": ["BlipForImageTextRetrieval"],
        "image_text_hidden_size": 256 if full else 32,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "logit_scale_init_value": 2.6592,
        "model_type": "blip",
        "projection_dim": 512,
        "text_config": both | text,
        "torch_dtype": "float32",
        "transformers_version": None,
        "vision_config": both | vision,
    }
    side = {"height": vision["image_size"], "width": vision["image_size"]}
    preprocessor = {"do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True, "size": side}
    preprocessor |= OPENAI | {"image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor"}
    return config, preprocessor | {"resample": 3, "rescale_factor": 1 / 255, "size_divisor": 32}


def _clip_tokenizer(folder: Path, size: int) -> None:
    """vocab.json, merges.txt, tokenizer.json: pairs of bytes, a word's last letter with </w>, as OpenAI's."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        whole, *rest = [*word[:-1], f"{word[-1]}</w>"]
        for symbol in rest:
            merges[whole, symbol] = None
            whole += symbol
    room = size - 2 * len(letters) - 2 - len(merges)  # the other merges are of no word
    others = ((one, two) for one in letters for two in letters if (one, two) not in merges)
    merges |= dict.fromkeys(pair for pair, _ in zip(others, range(room), strict=False))
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocabulary, merges=list(merges)).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    special = {"unk_token": "<|endoftext|>", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    added = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    config = {name: added | {"content": token} for name, token in special.items()}
    config |= {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77}
    config |= {"name_or_path": IDS["clip"], "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", special | {"pad_token": "<|endoftext|>"})


def _blip_tokenizer(folder: Path, size: int) -> None:
    """vocab.txt, tokenizer.json: BERT's word pieces, special tokens at 0 and from 100; two more ids are BLIP's own."""
    from transformers import BertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokens += [*letters[1:], *(f"##{letter}" for letter in letters)]
    tokens += [f"[unused{number}]" for number in range(99, 99 + size - 2 - len(tokens))]
    BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    special = {"cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]"}
    special |= {"unk_token": "[UNK]"}
    config = {"do_basic_tokenize": True, "do_lower_case": True, "model_max_length": 512, "never_split": None}
    config |= {"processor_class": "BlipProcessor", "strip_accents": None, "tokenize_chinese_chars": True}
    write_json(folder / "tokenizer_config.json", config | special | {"tokenizer_class": "BertTokenizer"})
    write_json(folder / "special_tokens_map.json", special)
