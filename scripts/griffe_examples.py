"""For the reference: an Example in a docstring is shown as code, as griffe shows Examples."""

import re
import textwrap

import griffe


class Examples(griffe.Extension):
    """Renames the section, and indents one that is not."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            text = re.sub(
                r"Example:\n\n(>>> (?:.+\n?)+)",
                lambda found: "Example:\n" + textwrap.indent(found[1], "    "),
                obj.docstring.value,
            )
            obj.docstring.value = text.replace("Example:\n    ", "Examples:\n    ")
