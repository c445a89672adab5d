"""Build tiny configs of any model type that transformers knows."""

from transformers import CONFIG_MAPPING

_SIZES = {
    **dict.fromkeys(("hidden_size", "dim", "d_model", "n_embd", "emb_dim", "embedding_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_ff", "ffn_dim"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 32),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "v_head_dim", "d_kv", "embed_dim", "head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "patch_size"), 4),
    **{"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "mlp_ratio": 2, "attention_window": 8},
    **{"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3},
    **{"image_size": 32, "num_patches": 16, "num_detection_tokens": 2, "entity_vocab_size": 8},
}  # fmt: skip
_STAGES = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
_OWN = {
    **dict.fromkeys(("swin", "swinv2", "donut-swin", "maskformer-swin"), _STAGES),
    "hiera": {
        **{"embed_dim": 8, "image_size": [32, 32], "patch_stride": [4, 4], "depths": [1, 1], "num_heads": [1, 2]},
        **{"query_stride": [2, 2], "num_query_pool": 1, "masked_unit_size": [4, 4]},
    },
    "yolos": {"image_size": [32, 32]},
}


def tiny_config(kind: str, **changes):
    """A config of a model type, 16 wide with 2 layers, 40 tokens and images of 32x32 pixels where it has such sizes."""
    known = CONFIG_MAPPING[kind]()
    names = {*known.to_dict(), *known.attribute_map}

    def is_number(name):
        try:
            return type(getattr(known, name)) in (int, type(None))
        except AttributeError:
            return False

    sizes = {name: size for name, size in _SIZES.items() if name in names and is_number(name)}
    lists = {name: getattr(known, name) for name in ("layer_types", "mlp_layer_types") if name in names}
    sizes |= {name: values[:2] for name, values in lists.items() if isinstance(values, list)}
    return CONFIG_MAPPING[kind](**{**sizes, **_OWN.get(kind, {}), **changes})
