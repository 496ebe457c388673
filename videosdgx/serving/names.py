"""What the Triton models of components, and what serving adds to their inputs and outputs, are called."""

from videosdgx.families import FAMILIES

# The input that tells a stateful component that a generation, named by its id, is over. It comes alone.
RELEASE = "release"
# The output of every component: the time that its own work took.
SECONDS = "seconds"


def component_model(family: str, component: str) -> str:
    """The Triton model that holds a component's weights."""
    return f"{family}_{component}"


def component_models(family: str) -> list[str]:
    """The Triton models that hold a family's weights."""
    return [component_model(family, component) for component in FAMILIES[family].components]


def split_model(model: str) -> tuple[str, str]:
    """`wan21_text_encoder` -> `("wan21", "text_encoder")`."""
    family, _, component = model.partition("_")
    return family, component
