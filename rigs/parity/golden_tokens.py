"""Writes tests/convert/golden_tokens.json: how Hugging Face's `tokenizers` reads texts with the demonstration model's
vocabulary. `PYTHON rigs/parity/golden_tokens.py`, with a Python that has tokenizers, such as build/parity/venv's.
"""

import json
import unicodedata
from pathlib import Path

from tokenizers import Tokenizer

ROOT = Path(__file__).parents[2]
TEXTS = (
    "",
    " ",
    "Hello, world!",
    "pressure 4.2 bar, flow 31 l/min, 57 °C",
    "It's what they'd've said: we'll see, I'M SURE",
    "1234567890 12 345",
    "  two  spaces   three\n\n\nlines\r\n\ttabs \t \n end  ",
    "def f(x):\n    return x**2  # ½ of it\n",
    "Müller prüft größere Übermaße – „gut“",
    unicodedata.normalize("NFD", "Müller prüft größere Übermaße, café, ångström, Việt Nam"),
    unicodedata.normalize("NFD", "한국어"),
    "Å and Å, ﬁ stays a ligature, ² stays raised",
    "压力为4.2巴，流量正常。检查泵！",
    "Проверьте насос. 温度は高い。",
    "🚀🔧 👩‍🔬 ❤️ e\u0301 \u200b zero\u00a0width",
    "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|> <|endoftext|><|im_end|>x<|im_end",
    "\u0000\u0007\ufffd\U0010ffff",
)


def main() -> None:
    tokenizer = Tokenizer.from_file(str(ROOT / "edge_agent" / "tools" / "demo" / "checkpoint" / "tokenizer.json"))
    known = [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS]
    lines = ",\n".join(json.dumps(one) for one in known)
    (ROOT / "tests" / "convert" / "golden_tokens.json").write_text(f"[\n{lines}\n]\n", "utf-8")


if __name__ == "__main__":
    main()
