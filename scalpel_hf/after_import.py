"""Run functions once certain modules have been imported, now or later.

Registering with PEFT and the Auto classes needs them imported, which takes seconds; `import scalpel_hf` should not. So
each registration waits for its module, and then for the end of the outermost import that it could disturb: transformers
imports its Auto classes while it is still defining the models that ours derive from.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any


class AfterImport(importlib.abc.MetaPathFinder):
    """
    Finder that calls functions after imports.

    Args:
        functions: what to call once, by the name of the module to wait for.
        guards: names of modules, and prefixes ending in a dot, during whose import nothing may be called.
    """

    def __init__(self, functions: dict[str, Callable[[], None]], guards: Iterable[str]):
        self.functions = dict(functions)
        self.names = {*functions, *(g for g in guards if not g.endswith("."))}
        self.prefixes = tuple(g for g in guards if g.endswith("."))
        self.importing: list[str] = []
        self.ready: list[Callable[[], None]] = []
        self.busy = False

    def install(self) -> None:
        sys.meta_path.insert(0, self)
        for name in [n for n in self.functions if n in sys.modules]:
            self.ready.append(self.functions.pop(name))
        self.call_ready()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.names and not fullname.startswith(self.prefixes):
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None

    def finished(self, name: str) -> None:
        self.importing.remove(name)
        if name in self.functions:
            self.ready.append(self.functions.pop(name))
        self.call_ready()

    def call_ready(self) -> None:
        while self.ready and not self.importing and not self.busy:
            self.busy = True
            try:
                self.ready.pop(0)()
            finally:
                self.busy = False


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, watcher: AfterImport):
        self.loader, self.watcher = loader, watcher

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.loader  # type: ignore[union-attr]
        self.watcher.importing.append(module.__name__)
        try:
            self.loader.exec_module(module)
        except BaseException:  # the import may be tried again
            self.watcher.importing.remove(module.__name__)
            raise
        self.watcher.finished(module.__name__)

    def __getattr__(self, name: str) -> Any:
        # What else a loader can do: `runpy` and `inspect` ask for code and source.
        return getattr(self.loader, name)
