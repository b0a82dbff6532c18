"""`luthier doctor`: what this machine offers, and what is missing."""

from __future__ import annotations


def doctor() -> None:
    """Report hardware, libraries, space and models."""
    import shutil

    from luthier.cli.show import console, table
    from luthier.kernels.native import state
    from luthier.models.catalogue import entries
    from luthier.system.hardware import bf16_is_native, choose_precision, environment
    from luthier.system.home import home

    console.print("looking at this machine")
    facts = environment()
    libraries = facts.pop("libraries")
    device = "cuda" if facts["gpus"] else "cpu"
    place = next(p for p in (home(), *home().parents) if p.exists())
    facts |= {
        "trains on": device,
        "precision (auto)": choose_precision("auto", device),
        "bf16 in hardware": bf16_is_native(device),
        "memory_bytes": f"{facts['memory_bytes'] / 1e9:.1f} GB",
        "native helpers": state(),
        "luthier home": f"{home()} ({shutil.disk_usage(place).free / 1e9:.1f} GB free)",
        "gpus": ", ".join(facts["gpus"]) or "none",
    }
    table("machine", ("what", "value"), list(facts.items()))
    table("libraries", ("library", "version"), [(n, v or "MISSING") for n, v in libraries.items()])
    models = [
        (e.name, "on this machine" if e.fetched else f"luthier models fetch {e.name}") for e in entries().values()
    ]
    table("models of the catalogue", ("name", "state"), models)
