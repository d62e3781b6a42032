"""The SBOM of a bundle, as CycloneDX 1.6: the model, its files, and the checkpoint that it was made from."""

from typing import Any


def sbom(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest must be of a bundle that was verified. Equal manifests give equal documents."""
    source = manifest.get("source")
    made_from = source if isinstance(source, dict) else {}
    tools, licence, revision = manifest.get("tools"), manifest.get("licence"), made_from.get("revision")
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "bundle",
                "name": manifest["name"],
                "version": str(manifest["version"]),
                **({} if licence is None else {"licenses": [{"license": {"name": licence}}]}),
                "modelCard": {
                    "modelParameters": {
                        "architectureFamily": manifest["architecture"],
                        "modelArchitecture": manifest["quantization"],
                    }
                },
                "pedigree": {
                    "ancestors": [
                        {
                            "type": "machine-learning-model",
                            "name": "checkpoint",
                            **({"version": revision} if isinstance(revision, str) else {}),
                            "components": _files(made_from.get("files")),
                        }
                    ]
                },
            },
            "properties": [
                {"name": f"edge-convert:tools:{name}", "value": str(value)}
                for name, value in sorted(tools.items() if isinstance(tools, dict) else ())
            ],
        },
        "components": _files({name: entry["sha256"] for name, entry in manifest["files"].items()}),
    }


def _files(hashes: object) -> list[dict[str, Any]]:
    """The file components from hexadecimal SHA-256 by file name."""
    return [
        {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": content}]}
        for name, content in sorted(hashes.items() if isinstance(hashes, dict) else ())
    ]
