"""The site: Sphinx over the guides, and over the docstrings of the built package."""

import functools
import importlib
import inspect
import pkgutil
import re
import types

import curio

project = "Curio"
copyright = "the Curio developers"
html_title = "Curio"
html_theme = "furo"
html_show_sourcelink = False
html_copy_source = False
pygments_style = "friendly"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
# Docstrings mark names by one pair of backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # The stubs have them.
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "inherited-members": "object, BaseException"}
python_maximum_signature_line_length = 80


def declare_operations():
    """Put in the place of native operations what they are declared by, which Sphinx can read."""
    operation = type(curio.sleep)
    names = [f"curio.{module.name}" for module in pkgutil.iter_modules(curio.__path__)]
    owners = [curio, *map(importlib.import_module, names)]
    owners += {
        value
        for module in owners
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__.startswith("curio.")
    }
    for owner in owners:
        for name, value in list(vars(owner).items()):
            if type(value) is operation:
                declared = types.FunctionType(
                    value.__code__, value.__globals__, closure=value.__closure__
                )
                functools.update_wrapper(declared, value, updated=())
                declared.__defaults__ = value.__defaults__
                declared.__kwdefaults__ = value.__kwdefaults__
                del declared.__wrapped__
                setattr(owner, name, declared)


declare_operations()


def skip(app, what, name, value, skipped, options):
    """Leave out what a module has from the standard library."""
    module = getattr(value, "__module__", None)
    if what == "module" and (module is None or not module.startswith("curio")):
        return True
    return None


def tidy(app, what, name, value, options, lines):
    """Set apart the signatures that a docstring begins with."""
    if lines and re.match(r"\w+\(", lines[0]):
        summary = re.sub(r"^\w+\(.*?\)(: | -> \w+: )", "", lines[0])
        if summary == lines[0]:
            end = lines.index("") if "" in lines else len(lines)
            lines[:end] = ["::", "", *("    " + line for line in lines[:end])]
        else:
            lines[0] = summary[:1].upper() + summary[1:]


def setup(app):
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", tidy)
