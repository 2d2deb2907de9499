"""What a process that cannot import this project gets out of an export. OUT holds given.pt, and gets found.pt."""

import shutil
import sys

for name in ("armd_dist", "data_pipeline", "launchers", "jaxtyping", "beartype", "pydantic", "numpy.typing.blocked"):
    sys.modules[name] = None  # type: ignore[assignment]  an import raises ImportError

import torch  # noqa: E402
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer  # noqa: E402

folder, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
given = torch.load(out + "/given.pt")
ids = given["ids"]
with torch.no_grad():
    shifted = model(ids, labels=ids)
    found = {
        "text_ids": tokenizer("The value of", return_tensors="pt").input_ids,
        "logits": shifted.logits,
        "loss": shifted.loss,
        "any_order": model(ids[:, 1:], block=given["block"]).logits,
        "strided": model.generate(ids[:, :5], streams=4, max_new_tokens=16),
        "passes": model.last_passes,
        "usual": model.generate(ids[:, :5], max_new_tokens=6, do_sample=False),
        "one_stream": model.generate(ids[:, :5], streams=1, max_new_tokens=6),
        "sampled": model.generate(ids[:, :5], streams=2, max_new_tokens=8, do_sample=True, top_k=5, seed=3),
    }
    short = torch.cat((torch.zeros(1, 3, dtype=torch.int64), ids[:1, :2]), dim=1)
    both = torch.cat((short, ids[1:, :5]))
    mask = torch.tensor([[0, 0, 0, 1, 1], [1] * 5])
    ask = {"streams": 2, "max_new_tokens": 8, "do_sample": True, "min_p": 0.01, "repetition_penalty": 1.2}
    # A text that ends; and transformers' own way to a loop that comes with a repository.
    end = found["strided"][0, 9].item()
    found["ended"] = model.generate(ids[:1, :5], streams=4, max_new_tokens=16, eos_token_id=end, pad_token_id=0)
    custom = {"custom_generate": folder, "trust_remote_code": True}
    found["custom"] = model.generate(ids[:, :5], streams=4, max_new_tokens=16, **custom)
    found["custom_usual"] = model.generate(ids[:, :5], max_new_tokens=6, do_sample=False, **custom)
    found["padded"] = model.generate(both, attention_mask=mask, seed=4, **ask)
    found["short"] = model.generate(ids[:1, :2], seed=4, **ask)
    # A batch of texts as users pad it, by the tokenizer, through transformers' own generate().
    tokenizer.padding_side = "left"
    texts = ["The value of", "The"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    found["batch"] = model.generate(**batch, max_new_tokens=6, do_sample=False)[:, -6:]
    alone = [
        model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=6, do_sample=False) for text in texts
    ]
    found["alone"] = torch.stack([torch.nn.functional.pad(row[0, -6:], (0, 0)) for row in alone])
    found["hidden"] = AutoModel.from_pretrained(folder, trust_remote_code=True)(ids).last_hidden_state
    half = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16)
    found["half"] = half(ids).logits
    found["half_tokens"] = half.generate(ids[:, :5], streams=4, max_new_tokens=16)
    # Saved again, moved, and loaded with its own copy of the code.
    model.save_pretrained(out + "/again")
    shutil.move(out + "/again", out + "/moved")
    again = AutoModelForCausalLM.from_pretrained(out + "/moved", trust_remote_code=True)
    found["again"] = again(ids).logits
    found["again_strided"] = again.generate(ids[:, :5], streams=4, max_new_tokens=16)
    found["again_dtype"] = AutoConfig.from_pretrained(out + "/moved", trust_remote_code=True).dtype
torch.save(found, out + "/found.pt")
