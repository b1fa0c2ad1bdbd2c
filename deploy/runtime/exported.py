"""Opens an exported policy of whatever kind, by what its manifest calls itself."""

from pathlib import Path

from .manifest import schema_of
from .planner import PlannerPolicy
from .planner_manifest import SCHEMA as PLANNER
from .planner_manifest import PlannerManifest
from .policy import StreamingPolicy
from .policy_manifest import PolicyManifest
from .reactive import SCHEMA as REACTIVE
from .reactive import ReactiveManifest, ReactivePolicy

KINDS = {PLANNER: (PlannerManifest, PlannerPolicy), REACTIVE: (ReactiveManifest, ReactivePolicy)}
STREAMING = (PolicyManifest, StreamingPolicy)  # and whatever is unknown: its reader says so


def open_manifest(path: str | Path) -> PolicyManifest | ReactiveManifest | PlannerManifest:
    """The manifest of an exported policy. Raises: ManifestError."""
    return KINDS.get(schema_of(path), STREAMING)[0].load(path)


def open_policy(path: str | Path, threads: int = 1, providers: list[str] | None = None):
    """The policy of a file, a `StreamingPolicy`, `ReactivePolicy` or `PlannerPolicy`. Raises: ManifestError."""
    return KINDS.get(schema_of(path), STREAMING)[1](path, threads=threads, providers=providers)
