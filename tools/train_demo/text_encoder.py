"""CLIP's text transformer, with the parameter names of transformers' CLIPTextModel."""

import json
import os

import torch.nn.functional as F
from torch import nn

CONFIG = dict(
    hidden_size=256, intermediate_size=1024, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=77
)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width, inner, heads):
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.layer_norm1 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(dict(fc1=nn.Linear(width, inner), fc2=nn.Linear(inner, width)))
        self.layer_norm2 = nn.LayerNorm(width)

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.layer_norm2(x))))


class TextEncoder(nn.Module):
    def __init__(
        self,
        vocabulary,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        max_position_embeddings,
    ):
        super().__init__()
        embeddings = nn.ModuleDict(
            dict(
                token_embedding=nn.Embedding(vocabulary, hidden_size),
                position_embedding=nn.Embedding(max_position_embeddings, hidden_size),
            )
        )
        layers = nn.ModuleList(
            Layer(hidden_size, intermediate_size, num_attention_heads) for _ in range(num_hidden_layers)
        )
        self.text_model = nn.ModuleDict(
            dict(
                embeddings=embeddings,
                encoder=nn.ModuleDict(dict(layers=layers)),
                final_layer_norm=nn.LayerNorm(hidden_size),
            )
        )
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids):
        """Ids [n, 77] to the last hidden state [n, 77, width]."""
        embeddings = self.text_model["embeddings"]
        x = embeddings["token_embedding"](ids) + embeddings["position_embedding"].weight[: ids.shape[1]]
        for layer in self.text_model["encoder"]["layers"]:
            x = layer(x)
        return self.text_model["final_layer_norm"](x)


def save_config(folder, vocabulary):
    os.makedirs(folder, exist_ok=True)
    config = dict(
        architectures=["CLIPTextModel"],
        model_type="clip_text_model",
        vocab_size=vocabulary,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
        projection_dim=CONFIG["hidden_size"],
        attention_dropout=0.0,
        torch_dtype="float16",
        **CONFIG,
    )
    json.dump(config, open(f"{folder}/config.json", "w"), indent=1)


def build(vocabulary):
    return TextEncoder(vocabulary, **CONFIG)
