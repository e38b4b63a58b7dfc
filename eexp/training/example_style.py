"""Which prompt style a run trains with: the one that its examples name. It is known before PyTorch is imported."""

from __future__ import annotations

from eexp.errors import InputError, UsageError, short
from eexp.prompts import PromptStyle, built_in_style, built_in_styles


def style_of_examples(label: str | None, style: PromptStyle | None) -> PromptStyle | None:
    """Return the prompt style of the examples.

    Args:
        label: The label of the style that the examples name; None if they name none.
        style: The style given as --prompt-style; without it the label must be that of a built-in one.

    Raises:
        UsageError: The style that is given is another one, or none is given and it is needed.
    """
    if style:
        if label and label != style.label:
            hint = ""
            if style.name == label.partition("@")[0]:
                origin = (
                    "the built-in style"
                    if label in {built_in_style(name).label for name in built_in_styles()}
                    else "another style"
                )
                hint = f", {origin} of that name: give your style another name, and make the examples with it"
            raise UsageError(f"--prompt-style is {style.label}, but the examples were made with {label}{hint}")
        return style
    if not label:
        return None
    try:
        return built_in_style(label)
    except (UsageError, InputError) as e:
        raise UsageError(
            f"the examples were made with prompt style {short(label)}: give its file as --prompt-style, so that "
            f"what is trained can be played with it ({e})"
        ) from None
