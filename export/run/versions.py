"""Versions of the packages that make an artifact."""

from importlib.metadata import PackageNotFoundError, version

_DISTRIBUTIONS = {"modelopt": "nvidia-modelopt"}


def versions(*names: str) -> dict[str, str]:
    """Installed version of each package, by the name that it is imported by; those not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(_DISTRIBUTIONS.get(name, name.replace("_", "-")))
        except PackageNotFoundError:
            continue
    return found
